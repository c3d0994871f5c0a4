"""Compares our ids with the Hugging Face tokenizers package, on a megabyte of mixed text.

    python3 tests/check_tokenizer.py build/release/bin/print-tokens MODEL.gguf...

Needs the Python packages gguf, numpy and tokenizers. A model's tokenizer is rebuilt from the tokens and merges
in its file. Every pre-tokenizer that we know is tried on each vocabulary, not only the one that belongs to it.
"""
import pathlib
import random
import subprocess
import sys
import tempfile
import unicodedata

import gguf
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

SIZE = 1_000_000
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def cut(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


# As the tokenizer.json files of such models have them; the second field is ignore_merges.
PRE_TOKENIZERS = {
    "gpt-2": (pre_tokenizers.ByteLevel(add_prefix_space=False), False),
    "smollm": (pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                        pre_tokenizers.ByteLevel(add_prefix_space=False)]), False),
    "llama-bpe": (cut(rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|"
                      rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES}"), True),
    "qwen2": (cut(rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|"
                  rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES}"), False),
    "tekken": (cut(rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|\p{{N}}|"
                   rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{SPACES}"), True),
}


def mixed_text():
    """This project's own files, and characters, numbers and spaces at random."""
    root = pathlib.Path(__file__).parent.parent
    files = sorted(f for pattern in ("*.md", "*/*.h", "*/*.cpp", "*/*.py", "scripts/*") for f in root.glob(pattern))
    parts = [f.read_text() for f in files if f.is_file()]
    rng = random.Random(1)
    known = [chr(c) for c in range(1, 0x20000) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]
    words = ["don't", "WE'LL", "I'm", "it's", "Füchsin", "été", "Привет", "日本語", "한국어", "שלום", "HelloWorld",
             "e\u0301", "12345", "3.14", "\u00bd", "٣", "  ", "\n", "\r\n", "\t", " ", "...", "!?", "==", "🦊", "<|im_start|>"]
    size = sum(map(len, parts))
    while size < SIZE:
        part = "".join(rng.choice(known) for _ in range(40)) if rng.random() < 0.3 else \
            "".join(rng.choice(words) + rng.choice(["", " ", " "]) for _ in range(40))
        parts.append(part)
        size += len(part)
    return "".join(parts)[:SIZE]


def read(path):
    reader = gguf.GGUFReader(path)
    return {key: reader.get_field(f"tokenizer.ggml.{key}").contents() for key in ("tokens", "merges", "token_type", "pre")}


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


def main():
    print_tokens, *files = sys.argv[1:]
    text = mixed_text()
    for file in files:
        vocabulary = read(file)
        ids = {token: i for i, token in enumerate(vocabulary["tokens"])}
        merges = [tuple(merge.split(" ")) for merge in vocabulary["merges"]]
        assert vocabulary["pre"] in PRE_TOKENIZERS, vocabulary["pre"]
        for pre, (pre_tokenizer, ignore_merges) in PRE_TOKENIZERS.items():
            theirs = Tokenizer(models.BPE(ids, merges, ignore_merges=ignore_merges))
            theirs.pre_tokenizer = pre_tokenizer
            expected = theirs.encode(text, add_special_tokens=False).ids
            with tempfile.TemporaryDirectory() as temporary:
                path = f"{temporary}/vocabulary.gguf"
                write(path, vocabulary, pre)
                ours = subprocess.run([print_tokens, path], input=text.encode(), check=True, capture_output=True).stdout
            found = list(map(int, ours.split()))
            if found != expected:
                at = next((i for i, (a, b) in enumerate(zip(found, expected)) if a != b), min(len(found), len(expected)))
                sys.exit(f"{file}, {pre}: token {at} of {len(expected)}: ours {found[at - 2:at + 3]}, "
                         f"theirs {expected[at - 2:at + 3]}, {theirs.decode(expected[at - 2:at + 3])!r}")
            own = ", its own" if pre == vocabulary["pre"] else ""
            print(f"{pathlib.Path(file).name}, pre-tokenizer {pre}{own}: {len(expected)} ids, all equal")


main()
