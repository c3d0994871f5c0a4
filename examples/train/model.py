"""The reference model of vga.cpp: a Llama-style decoder with an optional attention gate, and its checkpoint folder.

Plain PyTorch, written to be read: the C++ runtime is tested against what this file computes.
Shapes in comments: B rows, T tokens, D hidden size, H query heads, K key/value heads, E head_dim, F intermediate size.

    model, config = load("path/to/folder")
    logits = model(torch.tensor([[1, 306, 921]]))       # (B, T, vocab)
"""
import dataclasses
import json
import math
import pathlib
import struct

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


@dataclasses.dataclass
class Gate:
    """Which attention gate a model has. gate = sigmoid(W s + b), one number per head or one per element of a head.

    source     what the gate is computed from: "value", the token's own values (all K heads side by side, before any
               gate, never rotated); "input", the normalised input of the attention block; "none", no gate at all.
    placement  "output": multiplies the mixed head output of the querying token, before o_proj (one gate per query head);
               "value": multiplies the value of the attended token, before the weighted sum (one gate per KV head).
    """
    source: str = "value"
    placement: str = "output"
    granularity: str = "head"
    bias: bool = True


@dataclasses.dataclass
class Config:
    hidden_size: int = 256
    intermediate_size: int = 688
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    head_dim: int = 32
    vocab_size: int = 4096
    max_position_embeddings: int = 512
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    tie_word_embeddings: bool = True
    gate: Gate = dataclasses.field(default_factory=Gate)
    rope_scaling: dict | None = dataclasses.field(default=None, repr=False)     # as in config.json; "linear" or "llama3"

    def to_json(self):
        """The dictionary of config.json. Without a gate this is an ordinary Llama and says so."""
        fields = dataclasses.asdict(self)
        gate = fields.pop("gate")
        if self.rope_scaling is None:
            del fields["rope_scaling"]
        if gate["source"] == "none":
            head = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
            tail = {}
        else:
            head = {"model_type": "vga", "architectures": ["VgaForCausalLM"]}
            tail = {"attention_gate": gate}
        ids = {"hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2}
        return {**head, **fields, **ids, **tail}

    @classmethod
    def from_json(cls, fields):
        known = {f.name for f in dataclasses.fields(cls)} - {"gate"}
        config = cls(**{name: value for name, value in fields.items() if name in known})
        if "num_key_value_heads" not in fields:
            config.num_key_value_heads = config.num_attention_heads
        if fields.get("head_dim") is None:
            config.head_dim = config.hidden_size // config.num_attention_heads
        config.tie_word_embeddings = fields.get("tie_word_embeddings", False)
        if fields["model_type"] == "vga":
            config.gate = Gate(**fields["attention_gate"])
        elif fields["model_type"] == "llama":
            config.gate = Gate(source="none")
        else:
            raise ValueError(f"model_type {fields['model_type']!r} is neither vga nor llama")
        return config


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def scale_frequencies(frequency, scaling):
    """RoPE's frequencies for positions beyond those first trained for, (E/2). "llama3" is Llama 3.1's: wavelengths much
    shorter than the original context stay, those longer than it are stretched by `factor`, those between in part."""
    if scaling is None or scaling["rope_type"] == "default":
        return frequency
    if scaling["rope_type"] == "linear":
        return frequency / scaling["factor"]
    if scaling["rope_type"] != "llama3":
        raise ValueError(f"rope_type {scaling['rope_type']!r} is not default, linear or llama3")
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    wavelength = 2 * math.pi / frequency
    smooth = (scaling["original_max_position_embeddings"] / wavelength - low) / (high - low)
    smooth = smooth.clamp(0, 1)
    return (1 - smooth) * frequency / scaling["factor"] + smooth * frequency


def rope_table(config, length, dtype=torch.float32, device="cpu"):
    """cos and sin, (T, E/2). The angles are computed in float64: they are the same in every precision of the model."""
    frequency = config.rope_theta ** (-torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim)
    frequency = scale_frequencies(frequency, config.rope_scaling)
    angle = torch.outer(torch.arange(length, dtype=torch.float64), frequency)
    return angle.cos().to(device, dtype), angle.sin().to(device, dtype)


def rotate(x, cos, sin):
    """RoPE, half-split as in Hugging Face's Llama: element i turns with element i + E/2.  x (B, heads, T, E)"""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def attend(q, k, v, block, record=None):
    """Causal attention, (B, H, T, E) each, `block` queries at a time: a block sees no key behind its last query.

    On a CPU, blocks of 64 in bfloat16 under torch.compile train about twice as fast as PyTorch's fused attention.
    """
    out, T = [], q.shape[2]
    for begin in range(0, T, block):
        end = min(begin + block, T)
        scores = (q[:, :, begin:end] * q.shape[-1] ** -0.5) @ k[:, :, :end].mT                  # (B, H, block, end)
        seen = torch.ones(end - begin, end, dtype=torch.bool, device=q.device).tril(begin)
        scores = scores if scores.dtype == torch.float64 else scores.float()
        weights = torch.where(seen, scores, -math.inf).softmax(-1)
        if record is not None:
            record.setdefault("attention", []).append(F.pad(weights, (0, T - end)))     # (B, H, block, T)
        out.append(weights.to(v.dtype) @ v[:, :, :end])
    return torch.cat(out, 2)


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        D, H, K, E = config.hidden_size, config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.config = config
        self.block = 0                                          # queries at a time; 0: all of them
        self.q_proj = nn.Linear(D, H * E, bias=False)
        self.k_proj = nn.Linear(D, K * E, bias=False)
        self.v_proj = nn.Linear(D, K * E, bias=False)
        self.o_proj = nn.Linear(H * E, D, bias=False)
        gate = config.gate
        if gate.source != "none":
            n_in = K * E if gate.source == "value" else D
            heads = H if gate.placement == "output" else K
            self.gate_proj = nn.Linear(n_in, heads * (E if gate.granularity == "element" else 1), bias=gate.bias)

    def gate(self, x, v):
        """The gate of every token: (B, T, heads, E or 1), to be broadcast over the elements of a head."""
        g = torch.sigmoid(self.gate_proj(v if self.config.gate.source == "value" else x).to(x.dtype))
        per_head = self.config.head_dim if self.config.gate.granularity == "element" else 1
        return g.unflatten(-1, (-1, per_head))

    def forward(self, x, rope, record=None):
        """x (B, T, D), normalised. `record`, a dictionary, receives the attention weights, the gate and the values."""
        B, T, _ = x.shape
        c, gate = self.config, self.config.gate
        q = rotate(self.q_proj(x).view(B, T, -1, c.head_dim).transpose(1, 2), *rope).to(x.dtype)
        k = rotate(self.k_proj(x).view(B, T, -1, c.head_dim).transpose(1, 2), *rope).to(x.dtype)
        v = self.v_proj(x)                                                          # (B, T, K E)
        g = self.gate(x, v) if gate.source != "none" else None                      # (B, T, H or K, E or 1)
        values = v.view(B, T, -1, c.head_dim)                                       # (B, T, K, E)
        if record is not None:
            record.update(values=values, gate=g)
        if g is not None and gate.placement == "value":
            values = values * g
        shared = c.num_attention_heads // c.num_key_value_heads                     # query head h reads KV head h // shared
        k = k.repeat_interleave(shared, 1)                                          # (B, H, T, E)
        values = values.transpose(1, 2).repeat_interleave(shared, 1).to(x.dtype)    # (B, H, T, E)
        mixed = attend(q, k, values, self.block or T, record).transpose(1, 2)          # (B, T, H, E)
        if g is not None and gate.placement == "output":
            mixed = mixed * g
        return self.o_proj(mixed.reshape(B, T, -1))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x, rope, record=None):
        x = x + self.self_attn(self.input_layernorm(x), rope, record)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Model(nn.Module):
    """The attributes nest as the tensor names of a checkpoint do, so state_dict() is the checkpoint."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, tokens, records=None):
        """tokens (B, T) -> logits (B, T, vocab). `records`, one dictionary per layer, receives what attention did."""
        x = self.model.embed_tokens(tokens)                                         # (B, T, D)
        rope = rope_table(self.config, tokens.shape[1], x.dtype, x.device)
        for i, layer in enumerate(self.model.layers):
            x = layer(x, rope, records[i] if records is not None else None)
        x = self.model.norm(x)
        head = self.model.embed_tokens if self.config.tie_word_embeddings else self.lm_head
        return F.linear(x, head.weight)


# ---- checkpoint folders: config.json and model.safetensors -------------------------------------------------------------

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def save_safetensors(path, tensors):
    """8 bytes little-endian header length, a JSON header of names, types, shapes and offsets, then the data."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    header, blobs, offset = {"__metadata__": {"format": "pt"}}, [], 0
    for name, tensor in tensors.items():
        blob = tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape),
                        "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)                                                 # the data begins aligned
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def load_safetensors(path):
    data = pathlib.Path(path).read_bytes()
    length, = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        raw = torch.from_numpy(np.frombuffer(data[begin:end], np.uint8).copy())
        tensors[name] = raw.view(DTYPES[entry["dtype"]]).view(entry["shape"])
    return tensors


def save(folder, model, dtype=torch.float32):
    """Writes a checkpoint folder, its tensors as `dtype`."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    fields = model.config.to_json() | {"torch_dtype": str(dtype).removeprefix("torch.")}
    (folder / "config.json").write_text(json.dumps(fields, indent=2) + "\n")
    save_safetensors(folder / "model.safetensors", {name: t.to(dtype) for name, t in model.state_dict().items()})


def load(folder):
    """Reads a checkpoint folder into a float32 model."""
    folder = pathlib.Path(folder)
    model = Model(Config.from_json(json.loads((folder / "config.json").read_text())))
    model.load_state_dict({name: t.float() for name, t in load_safetensors(folder / "model.safetensors").items()})
    return model.eval()
