"""Reads what vga-convert and vga-quantize write with the gguf package and compares every value.

    python3 tests/check_gguf.py build/release/bin tests/data/cases/* models/vga-stories

Needs the Python packages gguf and numpy. Each folder is converted to f32, f16, bf16 and q8_0; metadata
must equal config.json, tensors must equal the checkpoint's, rounded by the package's own quantizer.
Then each is quantized to every type: the package must decode the same numbers as we do, and its own
quantizer, where it has one, must give the same bytes. Last, blocks of random bytes are decoded.
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


def run(program, *arguments):
    subprocess.run([program, *arguments], check=True, capture_output=True)


def has_wide_gates(reader):
    """Gates of each element from the input make a matrix as large as q's, which is stored like one."""
    gate = [value(reader, f"vga.attention.gate.{key}") if f"vga.attention.gate.{key}" in reader.fields else None
            for key in ("source", "granularity")]
    return gate == ["input", "element"]


def check_conversion(programs, folder, kind, file):
    config = json.loads((folder / "config.json").read_text())
    run(programs / "vga-convert", folder, "-o", file, "--type", kind)
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
        if array.ndim == 1 or ("attn_gate" in name and not has_wide_gates(reader)):
            wanted = "F32"
        elif wanted == "Q8_0" and array.shape[-1] % 32 != 0:
            wanted = "F16"
        assert tensor.tensor_type.name == wanted, (name, tensor.tensor_type.name, wanted)
        rounded = gguf.quants.quantize(array, tensor.tensor_type)
        assert rounded.tobytes() == tensor.data.tobytes(), name
    return len(expected)


def same_floats(a, b):
    """Bit for bit, but any NaN equals any other."""
    return np.all((a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b)))


def check_decoding(programs, file, tensors, back):
    """vga-quantize FILE BACK f32 must decode what the package decodes of its tensors."""
    run(programs / "vga-quantize", file, back, "f32")
    ours = {tensor.name: tensor for tensor in gguf.GGUFReader(back).tensors}
    types = set()
    for tensor in tensors:
        theirs = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        assert ours[tensor.name].tensor_type.name == "F32", tensor.name
        assert same_floats(theirs, ours[tensor.name].data), (tensor.name, tensor.tensor_type.name)
        types.add(tensor.tensor_type.name)
    return types


def check_quantization(programs, exact, reader, kind, file, back):
    """Quantizes EXACT, a file in f32, to FILE. Returns the types found in it. The package takes its
    time to open a file with a vocabulary, so each is opened once."""
    run(programs / "vga-quantize", exact, file, kind, "--pure")
    originals = {tensor.name: tensor for tensor in reader.tensors}
    tensors = gguf.GGUFReader(file).tensors
    for tensor in tensors:
        original = originals.pop(tensor.name)
        assert list(tensor.shape) == list(original.shape), tensor.name
        if len(original.shape) == 1 or ("attn_gate" in tensor.name and not has_wide_gates(reader)):
            assert tensor.tensor_type == original.tensor_type, tensor.name
        if tensor.tensor_type.name.endswith("_K"):
            theirs = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            error = np.sqrt(np.mean((theirs - original.data) ** 2) / np.mean(original.data ** 2))
            assert error < {"Q4_K": 0.08, "Q5_K": 0.04, "Q6_K": 0.02}[tensor.tensor_type.name], (tensor.name, error)
        else:
            wanted = gguf.quants.quantize(original.data, tensor.tensor_type)
            assert wanted.tobytes() == tensor.data.tobytes(), (tensor.name, tensor.tensor_type.name)
    assert not originals, originals.keys()
    return check_decoding(programs, file, tensors, back)


def check_random_blocks(programs, file, back):
    """A model whose matrices are random bytes: every pattern of levels, any scale."""
    random = np.random.default_rng(1)
    hidden, rows = 256, 512
    writer = gguf.GGUFWriter(file, "llama")
    for name, number in {"vocab_size": rows, "context_length": 64, "embedding_length": hidden,
                         "feed_forward_length": rows, "block_count": 1, "attention.head_count": 2,
                         "attention.head_count_kv": 2, "rope.dimension_count": 128}.items():
        writer.add_uint32(f"llama.{name}", number)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    types = iter(["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"])
    for name, shape in {"token_embd": (rows, hidden), "blk.0.attn_q": (hidden, hidden),
                        "blk.0.attn_k": (hidden, hidden), "blk.0.attn_v": (hidden, hidden),
                        "blk.0.attn_output": (hidden, hidden), "blk.0.ffn_gate": (rows, hidden),
                        "blk.0.ffn_up": (rows, hidden), "blk.0.ffn_down": (hidden, rows)}.items():
        kind = gguf.GGMLQuantizationType[next(types)]
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        data = random.integers(0, 256, (shape[0], shape[1] // elements, size), dtype=np.uint8)
        # Scales must be finite numbers: clear one bit of each f16 exponent.
        for at in {"Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}.get(kind.name, (0,)):
            data[:, :, at + 1] &= 0xBF
        writer.add_tensor(f"{name}.weight", data.reshape(shape[0], -1), raw_dtype=kind)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(hidden, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return check_decoding(programs, file, gguf.GGUFReader(file).tensors, back)


QUANTIZED = {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"}


def main():
    programs, *folders = map(pathlib.Path, sys.argv[1:])
    n_files = n_tensors = 0
    types = set()
    with tempfile.TemporaryDirectory() as temporary:
        file, exact, back = (f"{temporary}/{name}.gguf" for name in ("model", "exact", "back"))
        for folder in folders:
            if not any(folder.glob("*.safetensors")):
                continue  # the package knows no pickles; the C++ tests compare those
            for kind in GGUF_TYPES:
                n_tensors += check_conversion(programs, folder, kind, file)
                n_files += 1
            run(programs / "vga-convert", folder, "-o", exact, "--type", "f32")
            reader = gguf.GGUFReader(exact)
            for kind in sorted(QUANTIZED) + ["F16", "BF16"]:
                types |= check_quantization(programs, exact, reader, kind, file, back)
                n_files += 1
        assert n_files > 0, "no checkpoint was given"
        assert types >= QUANTIZED, f"never written: {QUANTIZED - types}"
        types = check_random_blocks(programs, file, back)
        assert types >= QUANTIZED, f"never decoded: {QUANTIZED - types}"
    print(f"{n_files} files, {n_tensors} tensors of checkpoints, {len(types)} types: all as expected")


main()
