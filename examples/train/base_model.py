"""A model to give gates to: weights, tokenizer and chat template of a llama-like base.

    model, tokenizer, template = load("SmolLM2-135M-Instruct.Q4_1.gguf")      # or a Hugging Face folder
    parameters = load_adapter("smollm2-vga.gguf", model.config)               # or the folder that retrofit.py wrote
"""
import json
import pathlib

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

import model as reference

# GGUF name -> name in a checkpoint folder; {n} is the layer.
LAYER_NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
ADAPTER_NAMES = LAYER_NAMES | {"attn_gate": "self_attn.gate_proj"}
OTHER_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def load(path):
    """The float32 model without a gate, its tokenizer, and its chat template ("" if it has none)."""
    path = pathlib.Path(path)
    return load_folder(path) if path.is_dir() else load_gguf(path)


def load_folder(folder):
    fields = json.loads((folder / "config.json").read_text())
    if fields["model_type"] not in ("llama", "mistral"):
        raise SystemExit(f"{folder}: model_type {fields['model_type']!r} is neither llama nor mistral")
    if fields.get("attention_bias") or fields.get("mlp_bias"):
        raise SystemExit(f"{folder}: biases of projections are not supported")
    fields = {**fields, **(fields.get("rope_parameters") or {}), "model_type": "llama"}
    model = reference.Model(reference.Config.from_json(fields))
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= reference.load_safetensors(file)
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    model.load_state_dict({name: t.float() for name, t in tensors.items() if "inv_freq" not in name})
    template = folder / "tokenizer_config.json"
    template = json.loads(template.read_text()).get("chat_template", "") if template.exists() else ""
    return model, Tokenizer.from_file(str(folder / "tokenizer.json")), template


def load_gguf(path):
    import gguf
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    if fields["general.architecture"] != "llama":
        raise SystemExit(f"{path}: general.architecture {fields['general.architecture']!r} is not llama")
    tensors = {t.name: torch.from_numpy(gguf.quants.dequantize(t.data, t.tensor_type).copy()) for t in reader.tensors}
    if "rope_freqs.weight" in tensors:
        raise SystemExit(f"{path}: scaled positions are read from a Hugging Face folder alone")
    heads, width = fields["llama.attention.head_count"], fields["llama.embedding_length"]
    config = reference.Config(
        hidden_size=width, intermediate_size=fields["llama.feed_forward_length"],
        num_hidden_layers=fields["llama.block_count"], num_attention_heads=heads,
        num_key_value_heads=fields.get("llama.attention.head_count_kv", heads),
        head_dim=fields.get("llama.attention.key_length", width // heads), vocab_size=tensors["token_embd.weight"].shape[0],
        max_position_embeddings=fields["llama.context_length"],
        rms_norm_eps=fields["llama.attention.layer_norm_rms_epsilon"], rope_theta=fields.get("llama.rope.freq_base", 10000.0),
        tie_word_embeddings="output.weight" not in tensors, gate=reference.Gate(source="none"))
    model = reference.Model(config)
    model.load_state_dict({folder_name(name): half_split(name, t, config.head_dim) for name, t in tensors.items()})
    return model, gguf_tokenizer(path, fields), fields.get("tokenizer.chat_template", "")


def folder_name(name):
    parts = name.removesuffix(".weight").split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{LAYER_NAMES[parts[2]]}.weight"
    return OTHER_NAMES[parts[0]] + ".weight"


def half_split(name, tensor, head_dim):
    """llama files turn elements (2i, 2i + 1) of a head together, the reference (i, i + E/2): rows of Q and K move."""
    if not name.endswith(("attn_q.weight", "attn_k.weight")):
        return tensor
    rows = tensor.unflatten(0, (-1, head_dim // 2, 2))                              # (heads, E/2, 2, D)
    return rows.transpose(1, 2).reshape(tensor.shape)


def load_adapter(path, config):
    """Updates and gates of an adapter, by the names that retrofit.py's student gives them; an update's factor is in its B."""
    path = pathlib.Path(path)
    if path.is_dir():
        tensors = reference.load_safetensors(path / "adapter_model.safetensors")
        return {name.removeprefix("base_model.model.").replace("lora_A.weight", "lora_A").replace("lora_B.weight", "lora_B"):
                tensor.float() for name, tensor in tensors.items()}
    import gguf
    reader, parameters = gguf.GGUFReader(path), {}
    alpha = reader.fields["adapter.lora.alpha"].contents()
    for tensor in reader.tensors:
        _, layer, kind, suffix = tensor.name.split(".", 3)
        values = torch.from_numpy(tensor.data.copy()).float()
        suffix = suffix.removeprefix("weight.").replace("lora_a", "lora_A").replace("lora_b", "lora_B")
        if suffix == "lora_B":
            values = half_split(f"{kind}.weight", values, config.head_dim) * (alpha / values.shape[1])
        parameters[f"model.layers.{layer}.{ADAPTER_NAMES[kind]}.{suffix}"] = values
    return parameters


def gguf_tokenizer(path, fields):
    """Byte-level BPE from a GGUF file's lists. The cut into words is known by name; only these are known here."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    cuts = {"gpt-2": byte_level, "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(True), byte_level]),
            "llama-bpe": pre_tokenizers.Sequence([
                pre_tokenizers.Split(Regex(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
                                           r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])}
    kind = fields.get("tokenizer.ggml.pre")
    if fields["tokenizer.ggml.model"] != "gpt2" or kind not in cuts:
        raise SystemExit(f"{path}: tokenizer {fields['tokenizer.ggml.model']!r} ({kind!r}) is not known here; "
                         "give the Hugging Face folder of the model")
    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer, tokenizer.decoder = cuts[kind], decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, fields["tokenizer.ggml.token_type"]) if kind == 3]
    tokenizer.add_special_tokens(control)
    return tokenizer
