"""Compares our ids with the Hugging Face tokenizers package, on a megabyte of mixed text.

    python3 tests/check_tokenizer.py build/release/bin MODEL.gguf...

Needs the Python packages gguf, numpy and tokenizers. The tokenizer of a model with byte-level BPE is rebuilt from
the tokens and merges in its file, and every pre-tokenizer that we know is tried on each vocabulary, not only the one
that belongs to it; one with SentencePiece's BPE is rebuilt from tokens and scores. Then tokenizer.json files of every
kind that we convert, made of the first model's vocabulary or trained here, become GGUF files by vga-convert.
"""
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import unicodedata

import gguf
import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

SIZE = 1_000_000
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def cut(*patterns):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns] +
                                   [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def gpt2(*before):
    return pre_tokenizers.Sequence([*before, pre_tokenizers.ByteLevel(add_prefix_space=False)])


LLAMA3 = (rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|"
          rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES}")
QWEN2 = (rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|"
         rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES}")
TEKKEN = (rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|\p{{N}}|"
          rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{SPACES}")
QWEN35 = (rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}|"
          rf" ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{SPACES}")
GPT4O = (rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTIONS}?|"
         rf"\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{SPACES}")
CASED = ("A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
         "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-"
         "\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-"
         "\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d"
         "\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-"
         "\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-"
         "\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-"
         "\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-"
         "\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-"
         "\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943")
ASIAN = ("\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e00-\u0e7f"
         "\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff")
DEEPSEEK3 = (r'[!"#$%&' r"'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
             r" ?[\p{P}\p{S}]+[\r\n]*|" + SPACES)

# As the tokenizer.json files of such models have them: the cuts, ignore_merges, whether NFC comes first.
PRE_TOKENIZERS = {
    "gpt-2": (gpt2(), False, False),
    "smollm": (gpt2(pre_tokenizers.Digits(individual_digits=True)), False, False),
    "llama-bpe": (cut(LLAMA3), True, False),
    "qwen2": (cut(QWEN2), False, True),
    "tekken": (cut(TEKKEN), True, False),
    "qwen35": (cut(QWEN35), False, True),
    "gpt-4o": (cut(GPT4O), False, False),
    "dbrx": (cut(LLAMA3), False, False),
    "deepseek-llm": (cut(r"[\r\n]", rf"\s?[{CASED}]+", "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+", r"\s+$",
                         "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", r"\p{N}+"), False, False),
    # Digits in threes counted from the right.
    "afmoe": (cut(r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))", f"[{ASIAN}]+", DEEPSEEK3), False, False),
}


def mixed_text():
    """This project's own files, and characters, numbers and spaces at random."""
    root = pathlib.Path(__file__).parent.parent
    files = sorted(f for pattern in ("*.md", "*/*.h", "*/*.cpp", "*/*.py", "scripts/*") for f in root.glob(pattern))
    parts = [f.read_text() for f in files if f.is_file()]
    rng = random.Random(1)
    known = [chr(c) for c in range(1, 0x20000) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]
    words = ["don't", "WE'LL", "I'm", "it's", "Füchsin", "été", "Привет", "日本語", "한국어", "שלום", "HelloWorld",
             "e\u0301", "12345", "3.14", "\u00bd", "٣", "  ", "\n", "\r\n", "\t", " ", "...", "!?", "==", "🦊", "<|im_start|>",
             "\n\n\n", "     ", "<tool>", "<b>"]
    size = sum(map(len, parts))
    while size < SIZE:
        part = "".join(rng.choice(known) for _ in range(40)) if rng.random() < 0.3 else \
            "".join(rng.choice(words) + rng.choice(["", " ", " "]) for _ in range(40))
        parts.append(part)
        size += len(part)
    return "".join(parts)[:SIZE]


def read(path):
    reader = gguf.GGUFReader(path)
    keys = ("model", "tokens", "merges", "scores", "token_type", "pre", "add_space_prefix", "unknown_token_id")
    fields = {key: reader.get_field(f"tokenizer.ggml.{key}") for key in keys}
    return {key: field.contents() for key, field in fields.items() if field}


def write(path, vocabulary, pre):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(vocabulary["tokens"])
    writer.add_token_merges(vocabulary["merges"])
    writer.add_token_types(vocabulary["token_type"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def orderless(ids, theirs):
    """The ids with those of each word sorted."""
    words = []
    for i in ids:
        if not words or theirs.id_to_token(i).startswith("▁"):
            words.append([])
        words[-1].append(i)
    return [i for word in words for i in sorted(word)]


def compare(what, program, path, text, theirs):
    """Ends the program if our ids for a GGUF file are not theirs."""
    theirs.encode_special_tokens = True  # as text, as we do what users type
    expected = theirs.encode(text, add_special_tokens=False).ids
    ours = subprocess.run([f"{program}/vga-tokenize", "-m", path, "--ids", "--no-bos", "-f", "-"],
                          input=text.encode(), check=True, capture_output=True).stdout
    found = list(map(int, ours.split()))
    if isinstance(theirs.model, models.Unigram):
        # A line of dashes is as likely with its pieces in any order. SentencePiece adds scores up in
        # floats and this package in doubles, and the rounding says which order is taken.
        found, expected = orderless(found, theirs), orderless(expected, theirs)
    if found != expected:
        at = next((i for i, (a, b) in enumerate(zip(found, expected)) if a != b), min(len(found), len(expected)))
        def show(ids):
            return [(i, theirs.id_to_token(i)) for i in ids[max(0, at - 2):at + 3]]
        sys.exit(f"{what}: token {at} of {len(expected)}: ours {show(found)}, theirs {show(expected)}")
    print(f"{what}: {len(expected)} ids, all equal", flush=True)


def byte_level(vocabulary, pre):
    ids = {token: i for i, token in enumerate(vocabulary["tokens"])}
    merges = [tuple(merge.split(" ")) for merge in vocabulary["merges"]]
    pre_tokenizer, ignore_merges, nfc = PRE_TOKENIZERS[pre]
    tokenizer = Tokenizer(models.BPE(ids, merges, ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    types = vocabulary["token_type"]
    # Control tokens are not looked for in what users type; those are added that are.
    tokenizer.add_tokens([AddedToken(token, normalized=False)
                          for token, type in zip(vocabulary["tokens"], types) if type == USER_DEFINED])
    return tokenizer


def all_merges(tokens):
    """Every way to join a token of two others, in the order of the tokens: what SentencePiece's scores say."""
    known = set(tokens)
    return [(token[:i], token[i:]) for token in tokens for i in range(1, len(token))
            if token[:i] in known and token[i:] in known]


def sentencepiece_bpe(vocabulary):
    tokens, scores, types = (vocabulary[key] for key in ("tokens", "scores", "token_type"))
    parts = sorted((i for i, type in enumerate(types) if type == NORMAL), key=lambda i: (-scores[i], i))
    unknown = tokens[vocabulary.get("unknown_token_id", 0)]
    model = models.BPE({token: i for i, token in enumerate(tokens)}, all_merges([tokens[i] for i in parts]),
                       unk_token=unknown, fuse_unk=True, byte_fallback=BYTE in types)
    tokenizer = Tokenizer(model)
    replace = normalizers.Replace(" ", "▁")
    prefix = vocabulary.get("add_space_prefix", True)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace]) if prefix else replace
    tokenizer.add_tokens([AddedToken(token, normalized=False)
                          for token, type in zip(tokens, types) if type == USER_DEFINED])
    return tokenizer


def check_file(program, file, text):
    vocabulary = read(file)
    name = pathlib.Path(file).name
    if vocabulary["model"] == "llama":
        return compare(f"{name}, SentencePiece's BPE", program, file, text, sentencepiece_bpe(vocabulary))
    assert vocabulary["pre"] in PRE_TOKENIZERS, vocabulary["pre"]
    for pre in PRE_TOKENIZERS:
        with tempfile.TemporaryDirectory() as temporary:
            path = f"{temporary}/vocabulary.gguf"
            write(path, vocabulary, pre)
            own = ", its own" if pre == vocabulary["pre"] else ""
            compare(f"{name}, pre-tokenizer {pre}{own}", program, path, text, byte_level(vocabulary, pre))


# ---- tokenizer.json


def trained(text, unigram=False):
    """The pieces of a SentencePiece-like vocabulary, the likeliest first, and their scores."""
    tokenizer = Tokenizer(models.Unigram() if unigram else models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=3000, special_tokens=["<unk>"], unk_token="<unk>") if unigram else \
        trainers.BpeTrainer(vocab_size=3000)
    tokenizer.train_from_iterator(text.splitlines(), trainer)
    return json.loads(tokenizer.to_str())["model"]["vocab"]


def like_sentencepiece(pieces, normalizer, pre_tokenizer):
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>"] + [f"<0x{byte:02X}>" for byte in range(256)] + pieces
    model = models.BPE({token: i for i, token in enumerate(tokens)}, all_merges(pieces), unk_token="<unk>",
                       fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.add_special_tokens(["<pad>", "<eos>", "<bos>", "<unk>"])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in ("<tool>", "<b>", "\n\n", "\n\n\n")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return tokenizer


def json_tokenizers(vocabulary, text):
    """A tokenizer as each family's tokenizer.json has it."""
    vocabulary = {**vocabulary, "tokens": [*vocabulary["tokens"], "<tool>"],
                  "token_type": [*vocabulary["token_type"], USER_DEFINED]}
    for pre, family in (("smollm", "SmolLM2"), ("qwen2", "Qwen2"), ("gpt-2", "GPT-2"), ("llama-bpe", "Llama 3"),
                        ("qwen35", "Qwen3.5"), ("afmoe", "Trinity")):
        tokenizer = byte_level(vocabulary, pre)
        tokenizer.add_special_tokens([AddedToken("<|" + "nowhere|>", special=True)])
        yield f"like {family}", tokenizer
    pieces = sorted(trained(text[:300_000]).items(), key=lambda item: item[1])
    pieces = [piece for piece, _ in pieces]
    replace = normalizers.Replace(" ", "▁")
    yield "like Gemma", like_sentencepiece(pieces, replace, pre_tokenizers.Split(" ", "merged_with_previous"))
    yield "like Llama 2", like_sentencepiece(pieces, normalizers.Sequence([normalizers.Prepend("▁"), replace]), None)
    for scheme in ("first", "always"):
        yield f"like Llama 2, Metaspace {scheme}", like_sentencepiece(
            pieces, None, pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False))
    unigram = Tokenizer(models.Unigram([tuple(entry) for entry in trained(text[:300_000], True)], unk_id=0))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    yield "unigram", unigram


def write_checkpoint(folder, tokenizer):
    """A model of the smallest size with this tokenizer, its embedding a multiple of 64 rows."""
    vocab = -(-tokenizer.get_vocab_size() // 64) * 64
    config = dict(model_type="llama", hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1,
                  num_key_value_heads=1, rms_norm_eps=1e-5, max_position_embeddings=64, vocab_size=vocab,
                  tie_word_embeddings=True, hidden_act="silu")
    shapes = {"model.embed_tokens.weight": [vocab, 4], "model.norm.weight": [4]}
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
                 "mlp.up_proj", "mlp.down_proj"):
        shapes[f"model.layers.0.{name}.weight"] = [4, 4]
    for name in ("input_layernorm", "post_attention_layernorm"):
        shapes[f"model.layers.0.{name}.weight"] = [4]
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    header = json.dumps(header).encode()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(end))
    tokenizer.save(str(folder / "tokenizer.json"))


def check_json(program, what, tokenizer, text):
    if isinstance(tokenizer.model, models.Unigram):
        text = text.replace("<unk>", "unknown")  # the package takes that for the token, SentencePiece for text
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        write_checkpoint(folder, tokenizer)
        path = str(folder / "model.gguf")
        subprocess.run([f"{program}/vga-convert", folder, "-o", path, "--type", "f32"], check=True,
                       capture_output=True)
        compare(f"tokenizer.json {what}", program, path, text, tokenizer)


def main():
    program, *files = sys.argv[1:]
    text = mixed_text()
    for file in files:
        check_file(program, file, text)
    for what, tokenizer in json_tokenizers(read(files[0]), text):
        check_json(program, what, tokenizer, text)


main()
