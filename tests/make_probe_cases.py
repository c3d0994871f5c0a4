"""Writes probe.json beside some of tests/data/cases: what PyTorch makes of the figures of vga-probe and --w8a8.

    python tests/make_probe_cases.py    needs what examples/train/requirements.txt names

The definitions are written out once more, over whole tensors in float64, where the runtime adds up row by row in float32.
The results are committed, so the C++ tests need no Python.
"""
import json
import pathlib
import sys

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "examples" / "train"))
import model as reference  # noqa: E402

CASES = ["llama", "value_output_head_bias", "value_value_head_bias", "value_value_element", "input_output_element"]
BLOCK, BLOCKS, CALIBRATION = 64, 6, 16


# ---- vga-probe ---------------------------------------------------------------------------------------------------------

def activations(model, tokens):
    """What each module puts out, (blocks, tokens, width) by the runtime's names, and what attention did."""
    found, hooks = {}, []

    def keep(name, module):
        hooks.append(module.register_forward_hook(lambda module, inputs, x: found.__setitem__(name, x)))
    for i, layer in enumerate(model.model.layers):
        keep(f"blk.{i}.attn_norm", layer.input_layernorm)
        keep(f"blk.{i}.attn_output", layer.self_attn)
        keep(f"blk.{i}.ffn_norm", layer.post_attention_layernorm)
        keep(f"blk.{i}.ffn_down", layer.mlp)
        keep(f"blk.{i}.block", layer)
    keep("output_norm", model.model.norm)
    records = [{} for _ in model.model.layers]
    model(tokens, records)
    for hook in hooks:
        hook.remove()
    return found, records


def probe(model, tokens):
    """tokens (blocks, BLOCK)."""
    found, records = activations(model, tokens)
    c, tensors, layers = model.config, [], []
    for name, x in found.items():
        rows = x.flatten(1)
        kurtosis = ((rows - rows.mean(1, keepdim=True)) ** 4).mean(1) / (rows.std(1) ** 4 + 1e-6)
        tensors.append({"name": name, "inf_norm": rows.norm(float("inf"), 1).mean().item(), "kurtosis": kurtosis.mean().item()})
    for i, record in enumerate(records):
        weights = torch.cat(record["attention"], 2)                                 # (blocks, H, T, T)
        shared = c.num_attention_heads // c.num_key_value_heads
        gate, between = record["gate"], torch.ones_like(weights)
        if gate is not None:                                                        # (blocks, T, heads, E or 1)
            if c.gate.placement == "value":
                gate = gate.repeat_interleave(shared, 2)
            mean = gate.mean(-1).transpose(1, 2)                                    # (blocks, H, T)
            between = mean[:, :, :, None] if c.gate.placement == "output" else mean[:, :, None, :]
        alpha = weights[:, :, :64, 0].mean(2)                                       # (blocks, H)
        # The softmax divides all scores of a query by the same: their differences are those of the weights' logarithms.
        scores = weights[:, :, 1:].log()                                            # (blocks, H, T - 1, T)
        others = scores.masked_fill(scores.isinf(), 0)[..., 1:].sum(-1) / torch.arange(1, weights.shape[2])
        delta = (scores[..., 0] - others).mean((0, 2))                              # (H)
        norms = record["values"].norm(dim=-1)                                       # (blocks, T, K)
        residual = found[f"blk.{i}.block"].norm(dim=-1)
        per_head = lambda x: x.tolist() if gate is not None else None
        layers.append({
            "first_attention": weights[..., 0].mean((0, 2)).tolist(),
            "gated_first_attention": (weights * between)[..., 0].mean((0, 2)).tolist(),
            "gate_mean": per_head(gate.mean((0, 1, 3)) if gate is not None else None),
            "gate_first": per_head(gate[:, 0].mean((0, 2)) if gate is not None else None),
            "gate_below_0.1": per_head((gate < 0.1).double().mean((0, 1, 3)) if gate is not None else None),
            "gate_above_0.9": per_head((gate > 0.9).double().mean((0, 1, 3)) if gate is not None else None),
            "delta_logit": delta.tolist(),
            "value_norm_first": norms[:, 0].mean(0).tolist(),
            "value_norm_ratio": (norms[:, 0].mean(0) / norms[:, 1:].mean((0, 1))).tolist(),
            "sink_rate": (alpha > 0.3).double().mean().item(),
            "head_sink_rate": (alpha > 0.3).double().mean(0).tolist(),
            "residual_norm_first": residual[:, 0].mean().item(),
            "residual_norm_others": residual[:, 1:].mean().item(),
        })
    return {
        "tokens": tokens.numel(),
        "sink_rate": float(np.mean([layer["sink_rate"] for layer in layers])),
        "first_attention": float(np.mean([layer["first_attention"] for layer in layers])),
        "max_inf_norm": max(t["inf_norm"] for t in tensors),
        "max_layer_inf_norm": max(t["inf_norm"] for t in tensors if t["name"].endswith(".block")),
        "avg_kurtosis": float(np.mean([t["kurtosis"] for t in tensors])),
        "layers": layers,
        "tensors": tensors,
    }


# ---- vga-perplexity --w8a8 ---------------------------------------------------------------------------------------------

def quantize(x, scale, zero, low, high):
    return scale * (((x / scale).round() + zero).clamp(low, high) - zero)


def quantize_weight(w):
    """Symmetric, one range: of 100 up to the largest magnitude plus 0.5 that with the least squared error."""
    low, high = (-128, 127) if w.min() < 0 else (0, 255)
    widest = w.abs().max().item() + 0.5
    candidates = [quantize(w, widest / 100 * i / high, 0, low, high) for i in range(1, 101)]
    return min(candidates, key=lambda q: ((w - q) ** 2).sum().item())


class Activations:
    """Asymmetric, one range for each name, by a running percentile while calibrating."""

    def __init__(self):
        self.ranges, self.calibrating = {}, True

    def __call__(self, name, x):
        if self.calibrating:
            now = np.percentile(x.numpy(), (100 - 99.999, 99.999))
            self.ranges[name] = 0.1 * now + 0.9 * self.ranges[name] if name in self.ranges else now
        low, high = self.ranges[name]
        low, high = min(low, 0.0), max(high, 1e-8)
        scale = (high - low) / 255
        zero = min(max(np.round(-low / scale), 0), 255)
        return quantize(x, max(scale, 1e-8), zero, 0, 255)


def quantized_forward(model, q, tokens, full_head):
    """Logits of one block (T), every op written out."""
    c = model.config
    norm = lambda x, m: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + c.rms_norm_eps) * m.weight
    T = len(tokens)
    rope = reference.rope_table(c, T, torch.float64)
    x = model.model.embed_tokens.weight[tokens]
    shared = c.num_attention_heads // c.num_key_value_heads
    for i, layer in enumerate(model.model.layers):
        a = layer.self_attn
        h = q((i, "attn_norm"), norm(x, layer.input_layernorm))
        heads = {name: q((i, name), h @ getattr(a, f"{name}_proj").weight.T).view(T, -1, c.head_dim).transpose(0, 1)
                 for name in "qkv"}                                                 # (heads, T, E)
        v = heads["v"].transpose(0, 1).reshape(T, -1)
        gate = a.gate(h[None], v[None])[0] if c.gate.source != "none" else None     # (T, heads, E or 1)
        values = heads["v"] * gate.transpose(0, 1) if gate is not None and c.gate.placement == "value" else heads["v"]
        keys = reference.rotate(heads["k"], *rope).repeat_interleave(shared, 0)
        scores = reference.rotate(heads["q"], *rope) @ keys.mT * c.head_dim ** -0.5
        scores = q((i, "scores"), scores).masked_fill(~torch.ones(T, T, dtype=torch.bool).tril(), -torch.inf)
        mixed = q((i, "weights"), scores.softmax(-1)) @ values.repeat_interleave(shared, 0)
        mixed = q((i, "mixed"), mixed).transpose(0, 1)                              # (T, H, E)
        if gate is not None and c.gate.placement == "output":
            mixed = mixed * gate
        x = q((i, "attn_residual"), x + q((i, "attn_output"), mixed.reshape(T, -1) @ a.o_proj.weight.T))
        h = q((i, "ffn_norm"), norm(x, layer.post_attention_layernorm))
        up = q((i, "ffn_up"), h @ layer.mlp.up_proj.weight.T)
        h = q((i, "ffn_mixed"), F.silu(h @ layer.mlp.gate_proj.weight.T) * up)
        x = q((i, "block"), x + q((i, "ffn_down"), h @ layer.mlp.down_proj.weight.T))
    return q("output_norm", norm(x, model.model.norm)) @ full_head.T


def perplexity(blocks, logits_of):
    """The second half of each block counts, as vga-perplexity counts it."""
    losses = [F.cross_entropy(logits_of(block[:-1])[BLOCK // 2:], block[BLOCK // 2 + 1:], reduction="none") for block in blocks]
    return torch.cat(losses).mean().exp().item()


def w8a8(model, blocks):
    full = perplexity(blocks, lambda tokens: model(tokens[None])[0])
    head = (model.model.embed_tokens if model.config.tie_word_embeddings else model.lm_head).weight.clone()
    for name, p in model.named_parameters():
        if "self_attn.gate_proj" not in name and "lm_head" not in name:
            p.data = quantize_weight(p.data)
    q = Activations()
    for block in blocks[:CALIBRATION]:
        quantized_forward(model, q, block, head)
    q.calibrating = False
    return {"perplexity": full, "w8a8_perplexity": perplexity(blocks, lambda tokens: quantized_forward(model, q, tokens, head))}


def main():
    torch.set_grad_enabled(False)
    for name in CASES:
        folder = pathlib.Path(__file__).parent / "data" / "cases" / name
        model = reference.load(folder).double()
        tokens = torch.randint(3, model.config.vocab_size, (BLOCKS, BLOCK), generator=torch.Generator().manual_seed(7))
        tokens[:, 0] = 1
        case = {"ids": tokens.flatten().tolist(), "probe": probe(model, tokens), "w8a8": w8a8(model, tokens)}
        (folder / "probe.json").write_text(json.dumps(case, indent=1) + "\n")
        print(f"{name:26} sink rate {case['probe']['sink_rate']:.3f} kurtosis {case['probe']['avg_kurtosis']:.2f} {case['w8a8']}")


if __name__ == "__main__":
    main()
