"""Writes tests/data: tiny checkpoints with the logits that the PyTorch reference computes for them, and odd .pt files.

    python tests/make_cases.py          needs what examples/train/requirements.txt names

The results are committed, so the C++ tests need no Python. A case is a folder with a checkpoint, tokens.json, and for
each type it is to be converted to a logits_TYPE.npy: float32 (tokens, vocab), computed in float64 from matrices rounded
to that type. Norms and gates stay float32, as vga-convert leaves them. In q8_0 a matrix whose rows are no multiple of 32
long stays f16, as blocks do not cross rows; what a q8_0 matrix is multiplied by is rounded to int8, as the runtime does.
"""
import collections
import dataclasses
import json
import os
import pathlib
import shutil
import sys
import zlib

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "examples" / "train"))
from model import Config, Gate, Model, save_safetensors  # noqa: E402

DATA = pathlib.Path(__file__).parent / "data"


@dataclasses.dataclass
class Case:
    config: Config
    types: str = "f32"                  # of the logits files
    stored: torch.dtype = torch.float16         # half the bytes in the repository
    container: str = "safetensors"      # or "shards", "torch"
    fields: dict = dataclasses.field(default_factory=dict)     # replace those of config.json


def tiny(hidden, mlp, layers, heads, kv_heads, head_dim, vocab=101, tied=True, theta=10000.0, gate="none"):
    """`gate`: the source, the placement, the granularity and the bias, in words."""
    source, *rest = gate.split()
    gate = Gate(source, *rest[:2], bias="bias" in rest) if rest else Gate("none")
    return Config(hidden, mlp, layers, heads, kv_heads, head_dim, vocab, 64, 1e-5, theta, tied, gate)


def scaled(config, **scaling):
    return dataclasses.replace(config, rope_scaling=scaling)


VGA = tiny(64, 72, 2, 2, 1, 32, gate="value output head bias")
CASES = {
    "value_output_head_bias": Case(VGA, "f32 f16 bf16 q8_0", torch.float32),
    "value_output_head": Case(tiny(48, 136, 1, 4, 1, 32, tied=False, theta=500000.0, gate="value output head")),
    "value_output_element_bias": Case(tiny(64, 96, 1, 2, 2, 32, vocab=67, gate="value output element bias"), "f32 q8_0"),
    "value_value_head_bias": Case(tiny(48, 104, 2, 4, 2, 32, gate="value value head bias"), "f32 q8_0"),
    "value_value_element": Case(tiny(64, 72, 1, 4, 2, 32, tied=False, gate="value value element"), "f32 f16"),
    "input_output_head_bias": Case(tiny(56, 136, 1, 2, 1, 32, gate="input output head bias"), "f32 bf16"),
    "input_output_element": Case(tiny(48, 72, 1, 2, 1, 32, tied=False, theta=500000.0, gate="input output element")),
    "input_value_head": Case(tiny(64, 72, 1, 4, 1, 32, vocab=97, gate="input value head")),
    "input_value_element_bias": Case(tiny(48, 72, 1, 2, 2, 32, gate="input value element bias")),
    "head_dim_64": Case(tiny(64, 96, 1, 2, 1, 64, gate="value output head bias"), "f32 q8_0"),
    "head_dim_80": Case(tiny(48, 136, 1, 2, 1, 80, tied=False, theta=500000.0, gate="value output head bias")),
    "vga_without_gate": Case(tiny(48, 72, 1, 4, 2, 32),
                             fields={"model_type": "vga", "attention_gate": {"source": "none"}}),
    "llama": Case(tiny(64, 72, 1, 2, 1, 32, tied=False), "f32 f16 bf16 q8_0", torch.float32),
    # Of the 32 frequencies that 20 positions are scaled by, some stay, some are divided, some lie between.
    "rope_llama3": Case(scaled(tiny(64, 72, 1, 2, 1, 64), rope_type="llama3", factor=8.0, low_freq_factor=0.25,
                               high_freq_factor=2.0, original_max_position_embeddings=20)),
    "rope_linear": Case(scaled(tiny(64, 72, 1, 2, 1, 32), rope_type="linear", factor=4.0)),
    "shards": Case(tiny(48, 72, 3, 2, 1, 32, gate="value output head bias"), container="shards"),
    "stored_bf16": Case(VGA, stored=torch.bfloat16),
    "stored_f16": Case(VGA, stored=torch.float16),
    "torch_bin": Case(VGA, stored=torch.float32, container="torch"),
}


def randomize(model, seed):
    """Weights large enough that attention and gates are far from uniform, and logits spread by about 2."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        draw = torch.randn(p.shape, generator=generator)
        if name.endswith("norm.weight"):
            scale, draw = 0.2, draw + 5
        elif "embed_tokens" in name or "lm_head" in name or "self_attn.gate_proj" in name:
            scale = 2 * p.shape[-1] ** -0.5
        elif "q_proj" in name or "k_proj" in name:
            scale = 1.5 * p.shape[-1] ** -0.5
        else:
            scale = p.shape[-1] ** -0.5
        p.data = draw * scale


def round_q8_0(x):
    """x (rows, columns) as Q8_0 holds it: blocks of 32 of a row, int8 times a scale kept as float16."""
    blocks = x.numpy().reshape(-1, 32)
    d = np.abs(blocks).max(1, keepdims=True) / np.float32(127)
    inverse = np.divide(np.float32(1), d, out=np.zeros_like(d), where=d != 0)
    scaled = (blocks * inverse).astype(np.float64)
    q = np.copysign(np.floor(np.abs(scaled) + 0.5), scaled).clip(-127, 127)         # half away from zero
    return torch.from_numpy(q * d.astype(np.float16).astype(np.float64)).view(x.shape)


def is_q8_0(name, x, type):
    """Whether the converted file has blocks of int8 for a tensor of the checkpoint."""
    return type == "q8_0" and x.ndim == 2 and "self_attn.gate_proj" not in name and x.shape[1] % 32 == 0


def rounded(name, x, type):
    """A tensor of the checkpoint as the converted file holds it, in float64."""
    if x.ndim == 1 or "self_attn.gate_proj" in name or type == "f32":
        return x.double()
    if is_q8_0(name, x, type):
        return round_q8_0(x)
    return x.to(torch.bfloat16 if type == "bf16" else torch.float16).double()


class NearTie(Exception):
    """An activation is so close to the middle of two int8 that float32 may round it to the other one."""


def round_activations(x):
    """What a q8_0 matrix is multiplied by: each 32 columns become int8 times a scale, to the nearest even."""
    blocks = x.unflatten(-1, (-1, 32))
    d = (blocks.abs().amax(-1, keepdim=True) / 127).clamp(min=1e-30)
    q = blocks / d
    if ((q - q.floor() - 0.5).abs() < 3e-5).any():
        raise NearTie
    return (q.round() * d).flatten(-2)


def rounding_hooks(model, type):
    """Makes the model round what it multiplies q8_0 matrices by. The output matrix is fed by the last norm."""
    hooks = [module.register_forward_pre_hook(lambda module, inputs: round_activations(inputs[0]))
             for name, module in model.model.named_modules()
             if isinstance(module, torch.nn.Linear) and is_q8_0(name, module.weight, type)]
    if is_q8_0("output", model.model.embed_tokens.weight, type):
        hooks.append(model.model.norm.register_forward_hook(lambda module, inputs, x: round_activations(x)))
    return hooks


def compute(model, case, tensors, tokens):
    """Logits by type, and what attention did."""
    logits = {}
    for type in case.types.split():
        model.double().load_state_dict({name: rounded(name, t.float(), type) for name, t in tensors.items()})
        records = [{} for _ in model.model.layers]
        hooks = rounding_hooks(model, type)
        try:
            with torch.no_grad():
                logits[type] = model(tokens[None], records)[0]
        finally:
            for hook in hooks:
                hook.remove()
    return logits, records


def write_case(folder, case):
    folder.mkdir(parents=True)
    model = Model(case.config)
    # Cases of the same shape differ in how they are stored, not in what: the shape seeds them.
    randomize(model, zlib.crc32(repr(case.config).encode()))
    tensors = {name: t.to(case.stored) for name, t in model.state_dict().items()}

    fields = case.config.to_json() | {"torch_dtype": str(case.stored).removeprefix("torch.")} | case.fields
    (folder / "config.json").write_text(json.dumps(fields, indent=2) + "\n")
    if case.container == "torch":
        torch.save(model.state_dict(), folder / "pytorch_model.bin")                # with its _metadata, as users have it
    elif case.container == "shards":
        names = sorted(tensors)
        where = {}
        for i, part in enumerate((names[::2], names[1::2]), 1):
            file = f"model-{i:05}-of-00002.safetensors"
            save_safetensors(folder / file, {name: tensors[name] for name in part})
            where |= dict.fromkeys(part, file)
        size = sum(t.numel() * t.element_size() for t in tensors.values())
        index = {"metadata": {"total_size": size}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    else:
        save_safetensors(folder / "model.safetensors", tensors)

    for seed in range(40, 1000):
        tokens = torch.randint(3, case.config.vocab_size, (40,), generator=torch.Generator().manual_seed(seed))
        tokens[0] = 1
        try:
            logits, records = compute(model, case, tensors, tokens)
            break
        except NearTie:
            continue
    (folder / "tokens.json").write_text(json.dumps(tokens.tolist()) + "\n")
    for type, values in logits.items():
        np.save(folder / f"logits_{type}.npy", values.float().numpy())
    gates = [r["gate"] for r in records if r["gate"] is not None]
    peak = torch.cat([torch.cat(r["attention"], 2)[..., 20:, :].amax(-1).flatten() for r in records]).mean()
    print(f"{folder.name:26} logits std {values.std():.2f}, mean largest attention weight {peak:.2f}",
          f"gate std {torch.cat([g.flatten() for g in gates]).std():.2f}" if gates else "")


class Evil:
    """What a hostile file holds: a call. The reader must not make it."""

    def __reduce__(self):
        return os.system, ("touch /tmp/vga_pickle_ran",)


def write_peculiar(folder):
    """Files torch.save really writes, each with the tensors a reader must find: {name: {"shape", "values"}}."""
    folder.mkdir(parents=True)
    base = torch.arange(12, dtype=torch.float32)
    view = base[:6].view(2, 3)
    files = {
        "transposed": {"weight": base.view(3, 4).T, "every_other_column": base.view(3, 4)[:, ::2]},
        "shared_storage": {"a": view, "b": base[4:10].view(3, 2), "tied_to_a": view},
        "half_and_bfloat16": {"half": (base / 7).half(), "bfloat16": (base / 7).bfloat16().view(4, 3), "double": base[:2].double()},
        "scalar_and_empty": {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4)},
        "parameters": {"weight": torch.nn.Parameter(base.view(2, 6)), "bias": torch.nn.Parameter(base[:2])},
    }
    for name, tensors in files.items():
        torch.save(tensors, folder / f"{name}.pt")
    files["wrapped"] = collections.OrderedDict(weight=base.view(4, 3), bias=base[:4].clone())
    torch.save({"model": files["wrapped"], "step": 3, "args": {"lr": 0.004, "texts": ["a", "b"], "compile": True, "seed": None}},
               folder / "wrapped.pt")
    torch.save({"weight": base, "payload": Evil()}, folder / "evil.pt")
    for name, tensors in files.items():
        found = {key: {"shape": list(t.shape), "values": t.detach().float().flatten().tolist()} for key, t in tensors.items()}
        (folder / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")


def main():
    for part in ("cases", "peculiar"):
        shutil.rmtree(DATA / part, ignore_errors=True)
    for name, case in CASES.items():
        write_case(DATA / "cases" / name, case)
    write_peculiar(DATA / "peculiar")
    print(sum(f.stat().st_size for f in DATA.rglob("*") if f.is_file()) / 1e6, "MB")


if __name__ == "__main__":
    main()
