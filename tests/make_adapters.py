"""Writes tests/data/adapters: adapters as PEFT saves them, for checkpoints of tests/data/families, with the logits that
transformers computes for the merged models.

    python tests/make_adapters.py            needs torch, transformers, peft and numpy

The results are committed, so the C++ tests need no Python. A case is a folder with the adapter, logits.npy (tokens, vocab)
for the base's tokens.json, and a file `base`. Those with a gate, which PEFT does not know, come from the reference model.
"""
import json
import pathlib
import shutil
import sys

import numpy as np
import peft
import torch
import transformers

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "examples" / "train"))
import model as reference  # noqa: E402

DATA = pathlib.Path(__file__).parent / "data"
ATTENTION, MLP = ["q_proj", "k_proj", "v_proj", "o_proj"], ["gate_proj", "up_proj", "down_proj"]

# name: base, what LoraConfig gets.
CASES = {
    "llama": ("llama", dict(r=4, lora_alpha=8, target_modules=ATTENTION + MLP + ["lm_head"])),
    "llama_patterns": ("llama", dict(r=4, lora_alpha=6, use_rslora=True, target_modules=ATTENTION,
                                     rank_pattern={"v_proj": 2, r"layers\.1\.self_attn\.q_proj": 5},
                                     alpha_pattern={r"1\.self_attn\..*": 3})),
    "llama_one_layer": ("llama", dict(r=3, lora_alpha=3, target_modules=["k_proj"], layers_to_transform=[1])),
    "qwen2_biases": ("qwen2", dict(r=4, lora_alpha=4, target_modules=ATTENTION, bias="all")),
    "gemma2_norms": ("gemma2", dict(r=4, lora_alpha=4, target_modules=ATTENTION,
                                    modules_to_save=["input_layernorm", "norm"])),
    "phi3": ("phi3", dict(r=4, lora_alpha=4, target_modules=["qkv_proj", "o_proj", "gate_up_proj", "down_proj"])),
    "gpt2": ("gpt2", dict(r=4, lora_alpha=4, fan_in_fan_out=True, target_modules=["c_attn", "c_proj", "c_fc"])),
    "gpt_neox": ("gpt_neox", dict(r=4, lora_alpha=4, target_modules=["query_key_value", "dense"])),
    "qwen35": ("qwen35", dict(r=4, lora_alpha=8, target_modules=["in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a",
                                                                 "out_proj", "k_proj", "v_proj", "o_proj"] + MLP)),
}
GATES = {
    "llama_gated": reference.Gate("value", "output", "head", bias=True),
    "llama_gated_elements": reference.Gate("input", "value", "element", bias=False),
}


def draw(p, generator, scale=0.5):
    return torch.randn(p.shape, generator=generator) * scale * p.shape[-1] ** -0.5


def tokens_of(base):
    return torch.tensor(json.loads((DATA / "families" / base / "tokens.json").read_text()))


def write_peft(folder, base, settings):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        DATA / "families" / base, dtype=torch.float32, attn_implementation="eager")
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **settings))
    generator = torch.Generator().manual_seed(11)
    for name, p in model.named_parameters():
        if p.requires_grad:
            p.data = p.data + draw(p, generator) if "lora_" not in name else draw(p, generator, 1)
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    fields = json.loads((folder / "adapter_config.json").read_text())
    fields |= {"base_model_name_or_path": base, "target_modules": sorted(fields["target_modules"])}
    (folder / "adapter_config.json").write_text(json.dumps(fields, indent=2) + "\n")
    with torch.no_grad():
        return model.merge_and_unload().eval()(tokens_of(base)[None]).logits[0]


def write_gated(folder, base, gate, rank=4):
    """As examples/train/retrofit.py writes it, in float32."""
    fields = json.loads((DATA / "families" / base / "config.json").read_text())
    config = reference.Config.from_json(fields | fields.get("rope_parameters", {}) | {"model_type": "llama"})
    config.gate = gate
    model = reference.Model(config)
    model.load_state_dict(reference.load_safetensors(DATA / "families" / base / "model.safetensors"), strict=False)
    generator, tensors = torch.Generator().manual_seed(12), {}
    for name, p in model.named_parameters():
        module, _, part = name.rpartition(".")
        if "self_attn.gate_proj" in name:
            p.data = draw(p, generator, 2)
            tensors[f"base_model.model.{name}"] = p.data
        elif module.split(".")[-1] in ATTENTION:
            a, b = draw(p[:rank], generator), draw(p[:, :rank], generator)
            tensors[f"base_model.model.{module}.lora_A.weight"], tensors[f"base_model.model.{module}.lora_B.weight"] = a, b
            p.data = p.data + 2 * b @ a
    folder.mkdir(parents=True)
    reference.save_safetensors(folder / "adapter_model.safetensors", tensors)
    fields = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "use_rslora": False, "bias": "none",
              "target_modules": ATTENTION, "attention_gate": vars(gate)}
    (folder / "adapter_config.json").write_text(json.dumps(fields, indent=2) + "\n")
    with torch.no_grad():
        return model.double()(tokens_of(base)[None])[0]


def main():
    shutil.rmtree(DATA / "adapters", ignore_errors=True)
    for name, (base, settings) in CASES.items():
        save(DATA / "adapters" / name, base, write_peft(DATA / "adapters" / name, base, settings))
    for name, gate in GATES.items():
        save(DATA / "adapters" / name, "llama", write_gated(DATA / "adapters" / name, "llama", gate))


def save(folder, base, logits):
    np.save(folder / "logits.npy", logits.float().numpy())
    (folder / "base").write_text(base + "\n")
    plain = np.load(DATA / "families" / base / "logits.npy")
    change = np.linalg.norm(logits.float().numpy() - plain) / np.linalg.norm(plain)
    print(f"{folder.name:24} differs from its base by {change:.2f}")


if __name__ == "__main__":
    main()
