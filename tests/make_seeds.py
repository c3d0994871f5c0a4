"""Writes small good inputs for the fuzz targets, from which tests/corpus grew.

    python3 tests/make_seeds.py FOLDER

Templates and requests are texts, so theirs are written by hand: tests/corpus/template, tests/corpus/request.

What a fuzz target makes of them is then reduced to what adds a branch, and that is kept:

    build/asan/bin/fuzz-gguf -max_total_time=600 -max_len=4096 build/fuzz/gguf FOLDER/gguf
    build/asan/bin/fuzz-gguf -merge=1 -use_counters=0 -max_len=4096 tests/corpus/gguf build/fuzz/gguf
"""
import itertools
import json
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile

TESTS = pathlib.Path(__file__).resolve().parent
U32, F32, I32, STRING, ARRAY = 4, 6, 5, 8, 9  # GGUF's types of values


def text(string):
    data = string.encode()
    return struct.pack("<Q", len(data)) + data


def value(x):
    """A value with its type in front; a list is an array."""
    if isinstance(x, str):
        return struct.pack("<I", STRING) + text(x)
    if isinstance(x, float):
        return struct.pack("<If", F32, x)
    if isinstance(x, int):
        return struct.pack("<II", U32, x)
    element = {str: STRING, float: F32, int: I32}[type(x[0])]
    items = b"".join(text(i) if element == STRING else struct.pack("<f" if element == F32 else "<i", i) for i in x)
    return struct.pack("<IIQ", ARRAY, element, len(x)) + items


def gguf(values, tensors):
    """`tensors`: name, dims (dims[0] runs fastest), bytes; all of them f32."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values))
    head += b"".join(text(key) + value(x) for key, x in values.items())
    offset = 0
    for name, dims, data in tensors:
        head += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, 0, offset)
        offset += -(-len(data) // 32) * 32
    padded = [head] + [data for _, _, data in tensors]
    return b"".join(part + bytes(-len(part) % 32) for part in padded)


def model(architecture, source="value", placement="value", granularity="head"):
    dim, vocab = 4, 8
    prefix = architecture + "."
    values = {"general.architecture": architecture, prefix + "vocab_size": vocab}
    for key, x in {"context_length": 8, "embedding_length": dim, "feed_forward_length": dim, "block_count": 1,
                   "attention.head_count": 1, "attention.head_count_kv": 1, "rope.dimension_count": dim,
                   "rope.freq_base": 10000.0, "attention.layer_norm_rms_epsilon": 1e-5}.items():
        values[prefix + key] = x
    if architecture == "vga":
        values |= {prefix + "attention.gate.source": source, prefix + "attention.gate.placement": placement,
                   prefix + "attention.gate.granularity": granularity}
    values |= {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "▁", *"abcd"],
               "tokenizer.ggml.token_type": [2, 3, 3, 1, 1, 1, 1, 1],
               "tokenizer.ggml.scores": [-float(i) for i in range(vocab)]}
    shapes = {"token_embd.weight": [dim, vocab], "output_norm.weight": [dim]}
    layer = {name: [dim, dim] for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")}
    layer |= {"attn_norm": [dim], "ffn_norm": [dim]}
    if architecture == "vga":
        layer["attn_gate"] = [dim, dim if granularity == "element" else 1]
    shapes |= {f"blk.0.{name}.weight": shape for name, shape in layer.items()}
    floats = itertools.accumulate(itertools.repeat(0.25))
    tensors = []
    for name, dims in shapes.items():
        n = dims[0] * (dims[1] if len(dims) > 1 else 1)
        tensors.append((name, dims, struct.pack(f"<{n}f", *itertools.islice(floats, n))))
    return gguf(values, tensors)


def adapter():
    values = {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 2.0,
              "llama.attention.gate.source": "value", "llama.attention.gate.placement": "output",
              "llama.attention.gate.granularity": "head"}
    tensors = [("blk.0.attn_q.weight.lora_a", [4, 1], bytes(16)), ("blk.0.attn_q.weight.lora_b", [1, 4], bytes(16)),
               ("blk.0.attn_gate.weight", [4, 1], bytes(16)), ("output_norm.weight", [4], bytes(16))]
    return gguf(values, tensors)


def safetensors(dtype, size):
    header = {"__metadata__": {"format": "pt"}, "a.weight": {"dtype": dtype, "shape": [2, 3], "data_offsets": [0, 6 * size]},
              "b": {"dtype": dtype, "shape": [1], "data_offsets": [6 * size, 7 * size]}}
    data = json.dumps(header).encode()
    return struct.pack("<Q", len(data)) + data + bytes(range(7 * size))


def llama2c():
    dim, hidden, layers, heads, vocab, context = 4, 8, 1, 2, 8, 4
    n = vocab * dim + layers * (2 * dim + 4 * dim * dim + 3 * dim * hidden) + dim + context * dim // heads
    return struct.pack("<7i", dim, hidden, layers, heads, heads, vocab, context) + bytes(4 * n)


def sentencepiece(kind):
    with tempfile.TemporaryDirectory() as folder:
        sentences = pathlib.Path(folder) / "text"
        sentences.write_text("one two three\nthe cat sat on the mat\n" * 5)
        size = "--vocab_size=275" if kind == "bpe" else "--vocab_size=30"
        subprocess.run(["spm_train", f"--input={sentences}", f"--model_prefix={folder}/m", f"--model_type={kind}", size,
                        "--hard_vocab_limit=false", "--normalization_rule_name=identity", *(["--byte_fallback"] if kind == "bpe" else [])],
                       check=True, capture_output=True)
        return (pathlib.Path(folder) / "m.model").read_bytes()


def http():
    """The first byte says where what is sent is cut in two."""
    host = "Host: localhost\r\n"
    post = "POST /pieces HTTP/1.1\r\n" + host
    get = "GET /a%20b?c=d HTTP/1.1\r\n" + host
    sent = [get + "Origin: http://a\r\nAuthorization: Bearer k\r\n\r\n" + post + "Content-Length: 9\r\n\r\nnine byte",
            post + "Transfer-Encoding: chunked\r\n\r\n4;x=y\r\nfour\r\n10\r\nsixteen bytes ..\r\n0\r\nTrailer: t\r\n\r\n",
            post + "Expect: 100-continue\r\nContent-Length: 3\r\nConnection: close\r\n\r\n123",
            post.replace("1.1", "1.0") + "Connection: keep-alive\r\nContent-Length: 8\r\n\r\n12345678",
            "HEAD /pieces HTTP/1.1\r\n" + host + "\r\nOPTIONS /none HTTP/1.1\r\n" + host + "\r\n",
            post + "Content-Length: 99999\r\n\r\n", post + "Transfer-Encoding: chunked\r\n\r\n259\r\n" + 601 * "x",
            "GET / HTTP/1.1\r\n" + "".join(f"{i}:\r\n" for i in range(101)) + "\r\n", "GET / HTTP/1.1\r\nA: " + 600 * "a",
            get + "Content-Length: 1\r\nContent-Length: 2\r\n\r\n12", get + host + "\r\n"]
    return [bytes([cut]) + text.encode() for text, cut in zip(sent, [255, 128] * len(sent))]


def main():
    folder = pathlib.Path(sys.argv[1])
    seeds = {
        "blocks": [bytes([kind]) + bytes(range(1, 211)) for kind in range(11)],
        "gguf": [model("llama"), model("vga"), model("vga", "input", "output", "element"), adapter()],
        "http": http(),
        "pickle": [path.read_bytes() for path in sorted(TESTS.glob("data/peculiar/*.pt"))],
        "safetensors": [safetensors("F32", 4), safetensors("BF16", 2), safetensors("F16", 2), llama2c()] +
                       [(TESTS / "data/cases" / case / "config.json").read_bytes()
                        for case in ("llama", "value_output_head_bias", "rope_linear", "rope_llama3")] +
                       [b'{"metadata":{"total_size":4},"weight_map":{"a":"model-1.safetensors"}}'],
        "tokenizer": [sentencepiece(kind) for kind in ("bpe", "unigram", "char", "word")],
        "vocabulary": [bytes([kind, *range(200)]) for kind in range(4)],
    }
    for name, inputs in seeds.items():
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True)
        for i, data in enumerate(inputs):
            (folder / name / f"seed-{i}").write_bytes(data)


main()
