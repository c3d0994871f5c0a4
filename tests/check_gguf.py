"""Reads what vga-convert writes with the gguf package and compares every value with the checkpoint.

    python3 tests/check_gguf.py build/release/bin/vga-convert tests/data/cases/* models/*

Needs the Python packages gguf and numpy. Each folder is converted to f32, f16, bf16 and q8_0; metadata
must equal config.json, tensors must equal the checkpoint's, rounded by the package's own quantizer.
"""
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import gguf
import numpy as np

GGUF_TYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
BLOCK_NAMES = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.gate_proj.weight": "attn_gate.weight",
    "self_attn.gate_proj.bias": "attn_gate.bias",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}


def gguf_name(name):
    block = re.fullmatch(r"model\.layers\.(\d+)\.(.*)", name)
    return f"blk.{block[1]}.{BLOCK_NAMES[block[2]]}" if block else NAMES[name]


def read_safetensors(path):
    raw = path.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    for name, entry in json.loads(raw[8:end]).items():
        if name == "__metadata__":
            continue
        begin, stop = entry["data_offsets"]
        data = raw[end + begin:end + stop]
        if entry["dtype"] == "BF16":
            array = (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            array = np.frombuffer(data, {"F32": np.float32, "F16": np.float16}[entry["dtype"]]).astype(np.float32)
        yield name, array.reshape(entry["shape"])


def permute(matrix, n_heads):
    """Half-split RoPE order to adjacent pairs, as llama files have it."""
    return matrix.reshape(n_heads, 2, -1, matrix.shape[1]).swapaxes(1, 2).reshape(matrix.shape)


def rope_factors(config):
    """What llama3 scaling divides the frequencies by."""
    scaling = config["rope_scaling"]
    frequency = config["rope_theta"] ** (-np.arange(0, config["head_dim"], 2) / config["head_dim"])
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] * frequency / (2 * np.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - kept) / scaling["factor"] + kept)).astype(np.float32)


def expected_tensors(folder, config):
    if config.get("rope_scaling", {}).get("rope_type") == "llama3":
        yield "rope_freqs.weight", rope_factors(config)
    for shard in sorted(folder.glob("*.safetensors")):
        for name, array in read_safetensors(shard):
            if config["model_type"] == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
                array = permute(array, config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"])
            yield gguf_name(name), array


def value(reader, key):
    return reader.get_field(key).contents()


def check(converter, folder, kind, file):
    config = json.loads((folder / "config.json").read_text())
    subprocess.run([converter, folder, "-o", file, "--type", kind], check=True, capture_output=True)
    reader = gguf.GGUFReader(file)
    arch = value(reader, "general.architecture")
    assert arch == config["model_type"], arch
    for key, name in {"embedding_length": "hidden_size", "feed_forward_length": "intermediate_size",
                      "block_count": "num_hidden_layers", "attention.head_count": "num_attention_heads",
                      "attention.head_count_kv": "num_key_value_heads", "attention.key_length": "head_dim",
                      "vocab_size": "vocab_size", "context_length": "max_position_embeddings",
                      "attention.layer_norm_rms_epsilon": "rms_norm_eps", "rope.freq_base": "rope_theta"}.items():
        found = value(reader, f"{arch}.{key}")
        assert np.float32(found) == np.float32(config[name]), (key, found, config[name])
    if config.get("rope_scaling", {}).get("rope_type") == "linear":
        assert value(reader, f"{arch}.rope.scaling.type") == "linear"
        assert value(reader, f"{arch}.rope.scaling.factor") == config["rope_scaling"]["factor"]
    if arch == "vga":
        gate = {"placement": "output", "granularity": "head", **config["attention_gate"]}
        for key in ("source", "placement", "granularity"):
            assert value(reader, f"vga.attention.gate.{key}") == gate[key], key
    if (folder / "tokenizer.model").exists():
        original = bytes(value(reader, "tokenizer.sentencepiece.model"))
        assert original == (folder / "tokenizer.model").read_bytes()
        assert len(value(reader, "tokenizer.ggml.tokens")) == config["vocab_size"]

    found = {tensor.name: tensor for tensor in reader.tensors}
    expected = dict(expected_tensors(folder, config))
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    for name, array in expected.items():
        tensor = found[name]
        assert tuple(reversed(tensor.shape)) == array.shape, name
        wanted = GGUF_TYPES[kind]
        if array.ndim == 1 or "attn_gate" in name:
            wanted = "F32"
        elif wanted == "Q8_0" and array.shape[-1] % 32 != 0:
            wanted = "F16"
        assert tensor.tensor_type.name == wanted, (name, tensor.tensor_type.name, wanted)
        rounded = gguf.quants.quantize(array, tensor.tensor_type)
        assert rounded.tobytes() == tensor.data.tobytes(), name
    return len(expected)


def main():
    converter, *folders = sys.argv[1:]
    n_files = n_tensors = 0
    with tempfile.TemporaryDirectory() as temporary:
        for folder in map(pathlib.Path, folders):
            if not any(folder.glob("*.safetensors")):
                continue  # the package knows no pickles; the C++ tests compare those
            for kind in GGUF_TYPES:
                n_tensors += check(converter, folder, kind, f"{temporary}/model.gguf")
                n_files += 1
    assert n_files > 0, "no checkpoint was given"
    print(f"{n_files} files, {n_tensors} tensors: all as expected")


main()
