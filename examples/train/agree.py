"""How close adapters of retrofit.py keep a base to itself on unseen texts: KL, and how often the likeliest token is the same.

    python agree.py --base SmolLM2.gguf --text unseen.jsonl unseen.txt --adapter first.gguf second.gguf

Both have the full view. Of each document the first 1,024 tokens are read; from the 16th on they are scored.
"""
import argparse
import pathlib

import torch

import base_model
import model as reference
import retrofit
from student import hidden, logits, make_student

LENGTH, BEGIN = 1024, 16


@torch.no_grad()
def agreement(model, view, docs, rope):
    """(KL from base to student, share of tokens whose likeliest successor is the same, tokens)"""
    kl = same = count = 0
    for doc in docs:
        tokens = torch.from_numpy(doc[None, :LENGTH].astype("int64"))                           # (1, T)
        T, scores = tokens.shape[1], []
        for student in (False, True):
            view.see(T, student=student)
            scores.append(logits(model, hidden(model, tokens, tuple(table[:T] for table in rope))[0, BEGIN:]))
        wanted, got = scores                                                                    # (T - BEGIN, vocab)
        kl += retrofit.divergence(wanted, got).item() * len(got)
        same += (wanted.argmax(-1) == got.argmax(-1)).sum().item()
        count += len(got)
    return kl / count, same / count, count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, type=pathlib.Path, help="GGUF file, or Hugging Face folder")
    parser.add_argument("--text", required=True, nargs="+", type=pathlib.Path, metavar="FILE", help="as retrofit.py has it")
    parser.add_argument("--adapter", required=True, nargs="+", type=pathlib.Path, help="PEFT folder, or GGUF file, with a value gate")
    parser.add_argument("--documents", type=int, default=40, help="of each text, at most")
    parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path("."), help="folder for the texts' tokens")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for adapter in args.adapter:
        model, tokenizer, template = base_model.load(args.base)
        rope = reference.rope_table(model.config, LENGTH)
        view = make_student(model, reference.Gate("value", "output", "head"), torch.bfloat16)
        retrofit.take(model, base_model.load_adapter(adapter, model.config), adapter)
        for path in args.text:
            docs = [doc for doc in retrofit.encode(path, tokenizer, template, args.cache) if len(doc) > BEGIN]
            kl, same, count = agreement(model, view, docs[:args.documents], rope)
            print(f"{adapter}, {path.name}: KL {kl:.4f}, same token {same:.1%}, of {count} tokens", flush=True)


if __name__ == "__main__":
    main()
