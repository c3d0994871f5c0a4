"""Writes tests/data/families: a tiny random checkpoint of every family with the logits that transformers computes for it.

    python tests/make_family_cases.py [NAME...]         needs torch, transformers, safetensors and numpy

The results are committed, so the C++ tests need no Python. A case is a folder with a checkpoint whose weights are
bfloat16, tokens.json and logits.npy (tokens, vocab), computed in float32. All weights are drawn anew, as what models begin
with hides mistakes. 100 tokens are more than two windows of 8 and more than one chunk of 64.
"""
import dataclasses
import json
import pathlib
import shutil
import sys
import zlib
from collections.abc import Callable

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

DATA = pathlib.Path(__file__).parent / "data" / "families"
VOCAB = 64
TOKENS = torch.randint(0, VOCAB, (100,), generator=torch.Generator().manual_seed(11))
SIZES = dict(vocab_size=VOCAB, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=128, pad_token_id=None)
GPT2_SIZES = dict(vocab_size=VOCAB, n_embd=48, n_layer=2, n_head=4, n_positions=128)
HEADS = {"head_dim": 16}                # 4 * 16 is not 48, which shows mistakes


@dataclasses.dataclass
class Case:
    config: type
    settings: dict
    sizes: dict = dataclasses.field(default_factory=lambda: SIZES)
    gate: tuple = ()                                        # source, granularity; placed at the output, with a bias
    edit: Callable = lambda config, tensors: (config, tensors)      # of what was saved

    def parameters(self):
        return self.sizes | self.settings


def without(config, *keys):
    return {key: value for key, value in config.items() if key not in keys}


def older(config, tensors):
    """config.json as transformers 4 wrote it: RoPE at the top level."""
    rope = config["rope_parameters"]
    full = rope.get("full_attention", rope)
    more = {"rope_theta": full["rope_theta"], "torch_dtype": "float32"}
    if "sliding_attention" in rope:
        more["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    if full["rope_type"] != "default":
        more["rope_scaling"] = without(full, "rope_theta", "partial_rotary_factor")
    if "partial_rotary_factor" in full:
        more["partial_rotary_factor"] = full["partial_rotary_factor"]
    if "original_max_position_embeddings" in full:
        more["original_max_position_embeddings"] = more["rope_scaling"].pop("original_max_position_embeddings")
    return without(config, "rope_parameters", "dtype", "layer_types") | more, tensors


def older_gemma3(config, tensors):
    config, tensors = older(config, tensors)
    # What Gemma 3's own files leave to transformers.
    return without(config, "query_pre_attn_scalar", "num_key_value_heads", "rope_theta", "rope_local_base_freq"), tensors


def older_neox(config, tensors):
    rope = config["rope_parameters"]
    buffers = {f"gpt_neox.layers.{i}.attention.{name}": torch.ones(2) for i in (0, 1) for name in ("bias", "masked_bias")}
    return (without(config, "rope_parameters") | {"rotary_pct": rope["partial_rotary_factor"], "rotary_emb_base": 10000},
            tensors | buffers)


def nested(config, tensors):
    """A checkpoint that sees as well: the language model is a part of it."""
    tensors = {"language_model." + name: t for name, t in tensors.items()}
    tensors["vision_tower.vision_model.embeddings.patch_embedding.weight"] = torch.ones(2, 2)
    tensors["multi_modal_projector.mm_soft_emb_norm.weight"] = torch.ones(2)
    return {"model_type": "gemma3", "tie_word_embeddings": True, "vision_config": {"hidden_size": 4},
            "text_config": without(config, "tie_word_embeddings", "architectures")}, tensors


def bare(config, tensors):
    """GPT-2 as it was published: names without a prefix, buffers of masks, no head."""
    tensors = {name.removeprefix("transformer."): t for name, t in tensors.items() if name != "lm_head.weight"}
    buffers = {f"h.{i}.attn.{name}": torch.ones(2) for i in (0, 1) for name in ("bias", "masked_bias")}
    return config | {"n_ctx": config["n_positions"]}, tensors | buffers


def sees_as_well(config, tensors):
    """Qwen3.5 as it is published: the language model is a part of what sees, with a draft of the token after next."""
    body = "model.language_model."
    tensors = {name.replace("model.", body, 1): t for name, t in tensors.items()}
    tensors["model.visual.patch_embed.proj.weight"] = torch.ones(2, 2)
    tensors["mtp.fc.weight"] = torch.ones(2, 2)
    tensors["mtp.layers.0.self_attn.q_norm.weight"] = torch.ones(2)
    config["rope_parameters"] |= {"mrope_interleaved": True, "mrope_section": [1, 1, 0]}
    return {"model_type": config["model_type"].removesuffix("_text"), "tie_word_embeddings": config["tie_word_embeddings"],
            "vision_config": {"hidden_size": 4}, "text_config": without(config, "tie_word_embeddings", "architectures")
            | {"mtp_num_hidden_layers": 1, "attn_output_gate": True, "full_attention_interval": 4}}, tensors


def fused_experts(config, tensors):
    """Experts as transformers holds them in memory, and as newer checkpoints have them: one tensor for all."""
    fused = {name: t for name, t in tensors.items() if ".experts." not in name}
    experts = sum("layers.0.mlp.experts." in name for name in tensors) // 3
    for i in range(config["num_hidden_layers"]):
        def stack(part, i=i):
            name = f"model.layers.{i}.mlp.experts."
            return torch.stack([tensors[f"{name}{e}.{part}_proj.weight"] for e in range(experts)])

        fused[f"model.layers.{i}.mlp.experts.gate_up_proj"] = torch.cat([stack("gate"), stack("up")], dim=1)
        fused[f"model.layers.{i}.mlp.experts.down_proj"] = stack("down")
    return config, fused


def rope(**parameters):
    return {"rope_parameters": {"rope_theta": 10000.0} | parameters}


def longrope(original, dims):
    return rope(rope_type="longrope", short_factor=[1 + 0.1 * i for i in range(dims // 2)],
                long_factor=[1 + 0.5 * i for i in range(dims // 2)], original_max_position_embeddings=original)


def gemma3_rope(**full):
    return {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e6} | full,
                                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}}


BIASES = {"attention_bias": True, "mlp_bias": True}
WINDOW = {"sliding_window": 8}
GEMMA = HEADS | WINDOW | {"query_pre_attn_scalar": 16}
# A pattern of six layers, and one of four, must repeat.
GEMMA3 = GEMMA | {"num_hidden_layers": 7, "num_attention_heads": 2, "num_key_value_heads": 1}
YARN = rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=32)
# As many value heads as key heads hide in which order they stand; a pattern of four layers must repeat.
SMALL = HEADS | {"hidden_size": 32, "intermediate_size": 48}
DELTA = SMALL | {"num_hidden_layers": 5, "linear_num_key_heads": 2, "linear_num_value_heads": 6, "linear_key_head_dim": 16,
                 "linear_value_head_dim": 16} | rope(rope_type="default", rope_theta=1e7, partial_rotary_factor=0.25)
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 16}
DELTA_EXPERTS = DELTA | EXPERTS | {"num_hidden_layers": 4, "shared_expert_intermediate_size": 24}
CASES = {
    "llama": Case(transformers.LlamaConfig, HEADS),
    "llama_biases": Case(transformers.LlamaConfig, BIASES | {"tie_word_embeddings": True}),
    "mistral": Case(transformers.MistralConfig, HEADS | WINDOW),
    "smollm3": Case(transformers.SmolLM3Config, {"num_hidden_layers": 5}),
    "qwen2": Case(transformers.Qwen2Config, {"tie_word_embeddings": True}),
    "qwen2_older": Case(transformers.Qwen2Config, YARN, edit=older),
    "qwen3": Case(transformers.Qwen3Config, HEADS),
    "qwen3_yarn": Case(transformers.Qwen3Config, HEADS | YARN),
    "qwen3_gated": Case(transformers.Qwen3Config, HEADS, gate=("input", "element")),
    "gemma2": Case(transformers.Gemma2Config, GEMMA | {"num_hidden_layers": 3, "attn_logit_softcapping": 5.0,
                                                       "final_logit_softcapping": 3.0}),
    "gemma3": Case(transformers.Gemma3TextConfig, GEMMA3),
    "gemma3_linear": Case(transformers.Gemma3TextConfig, GEMMA3 | gemma3_rope(rope_type="linear", factor=8.0)),
    "gemma3_older": Case(transformers.Gemma3TextConfig,
                         SIZES | WINDOW | {"head_dim": 256, "query_pre_attn_scalar": 256, "num_attention_heads": 8,
                                           "hidden_size": 16, "intermediate_size": 16, "num_key_value_heads": 4,
                                           "sliding_window_pattern": 2}, edit=older_gemma3),
    "gemma3_nested": Case(transformers.Gemma3TextConfig, GEMMA3, edit=nested),
    "gemma3_gated": Case(transformers.Gemma3TextConfig, GEMMA3, gate=("value", "head")),
    "phi3": Case(transformers.Phi3Config, {}),
    "phi3_window": Case(transformers.Phi3Config, WINDOW | longrope(32, 12)),
    "phi3_partial": Case(transformers.Phi3Config, rope(rope_type="default", partial_rotary_factor=0.5)),
    "phi3_short": Case(transformers.Phi3Config, longrope(100, 12)),
    "phi3_long": Case(transformers.Phi3Config, longrope(32, 12)),
    "phi3_older": Case(transformers.Phi3Config, longrope(32, 12), edit=older),
    "olmo2": Case(transformers.Olmo2Config, {}),
    "olmo3": Case(transformers.Olmo3Config, WINDOW | {"num_hidden_layers": 5}),
    "olmo3_yarn": Case(transformers.Olmo3Config,
                       WINDOW | {"num_hidden_layers": 5, "rope_parameters": {
                           "full_attention": YARN["rope_parameters"],
                           "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}}),
    "granite": Case(transformers.GraniteConfig, {"embedding_multiplier": 3.0, "attention_multiplier": 0.2,
                                                 "residual_multiplier": 0.5, "logits_scaling": 2.0}),
    "gpt2": Case(transformers.GPT2Config, {}, GPT2_SIZES),
    "gpt2_bare": Case(transformers.GPT2Config, {}, GPT2_SIZES, edit=bare),
    "gpt_neox": Case(transformers.GPTNeoXConfig, rope(rope_type="default", partial_rotary_factor=0.5)),
    "gpt_neox_serial": Case(transformers.GPTNeoXConfig,
                            rope(rope_type="default", partial_rotary_factor=0.5) | {"use_parallel_residual": False},
                            edit=older_neox),
    "opt": Case(transformers.OPTConfig, {"ffn_dim": 64, "word_embed_proj_dim": 48}),
    "opt_gated": Case(transformers.OPTConfig, {"ffn_dim": 64, "word_embed_proj_dim": 48}, gate=("value", "head")),
    "qwen35": Case(transformers.Qwen3_5TextConfig, DELTA),
    "qwen35_nested": Case(transformers.Qwen3_5TextConfig, DELTA | {"num_hidden_layers": 4, "linear_num_value_heads": 2,
                                                                   "tie_word_embeddings": True}, edit=sees_as_well),
    "qwen35moe": Case(transformers.Qwen3_5MoeTextConfig, DELTA_EXPERTS),
    "qwen3next": Case(transformers.Qwen3NextConfig, DELTA_EXPERTS),
    "qwen3moe": Case(transformers.Qwen3MoeConfig, SMALL | EXPERTS | {"norm_topk_prob": True}),
    "qwen3moe_fused": Case(transformers.Qwen3MoeConfig, SMALL | EXPERTS, edit=fused_experts),
    "afmoe": Case(transformers.AfmoeConfig, SMALL | WINDOW | EXPERTS | {
        "num_hidden_layers": 5, "num_dense_layers": 1, "num_shared_experts": 2, "route_scale": 2.5, "mup_enabled": True}),
}


def attentions(model):
    return [module for name, module in model.named_modules() if name.endswith("self_attn")]


def add_gates(model, source, granularity):
    """g = sigmoid(W s + b) scales what a head mixes, before the output projection."""
    for attention in attentions(model):
        output = attention.o_proj if hasattr(attention, "o_proj") else attention.out_proj
        heads = getattr(attention, "num_heads", None) or model.config.num_attention_heads
        inputs = attention.v_proj.out_features if source == "value" else attention.v_proj.in_features
        attention.gate_proj = torch.nn.Linear(inputs, heads if granularity == "head" else output.in_features)
        seen = {}
        if source == "value":
            attention.v_proj.register_forward_hook(lambda module, args, v, seen=seen: seen.update(s=v))
        else:
            attention.v_proj.register_forward_pre_hook(lambda module, args, seen=seen: seen.update(s=args[0]))

        def scale(module, args, attention=attention, seen=seen, heads=heads):
            gate = torch.sigmoid(attention.gate_proj(seen["s"]))
            z = args[0]
            return (z.unflatten(-1, (heads, -1)) * gate.unflatten(-1, (heads, -1))).flatten(-2).view(z.shape)

        output.register_forward_pre_hook(scale)


def randomize(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        draw = torch.randn(p.shape, generator=generator)
        if name.endswith("A_log"):
            value = torch.log(0.05 + 2 * torch.rand(p.shape, generator=generator))
        elif name.endswith("dt_bias"):
            value = draw - 1
        elif name.endswith("conv1d.weight"):
            value = 0.6 * draw
        elif name.endswith("expert_bias"):
            value = 0.1 * draw
        elif name.endswith("bias"):
            value = 0.25 * draw
        elif p.dim() == 1:
            value = p.data.mean().round() + 0.25 * draw         # norms, some of which begin at 0
        elif "embed" in name or "wte" in name or "wpe" in name:
            value = 0.5 * draw
        else:
            inputs = p.shape[0] if "c_" in name and model.config.model_type == "gpt2" else p.shape[-1]
            value = 1.5 * inputs ** -0.5 * draw
        p.data = value.bfloat16().float()
    model.tie_weights()


def write_case(name, case):
    folder = DATA / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = case.config(**case.parameters())
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    if case.gate:
        add_gates(model, *case.gate)
    randomize(model, zlib.crc32(name.encode()))
    with torch.no_grad():
        logits = model(TOKENS[None], use_cache=False).logits[0].numpy()
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    fields = json.loads((folder / "config.json").read_text())
    if case.gate:
        fields["attention_gate"] = {"source": case.gate[0], "placement": "output", "granularity": case.gate[1], "bias": True}
    fields, tensors = case.edit(fields, load_file(folder / "model.safetensors"))
    (folder / "config.json").write_text(json.dumps(fields, indent=1) + "\n")
    save_file({key: t.bfloat16().contiguous() for key, t in tensors.items()}, folder / "model.safetensors")
    (folder / "tokens.json").write_text(json.dumps(TOKENS.tolist()) + "\n")
    np.save(folder / "logits.npy", logits)
    print(f"{name:16} {config.model_type:12} logits std {logits.std():.2f}")


def main():
    names = sys.argv[1:] or list(CASES)
    if not sys.argv[1:]:
        shutil.rmtree(DATA, ignore_errors=True)
    for name in names:
        write_case(name, CASES[name])
    print(sum(f.stat().st_size for f in DATA.rglob("*") if f.is_file()) / 1e6, "MB")


if __name__ == "__main__":
    main()
