"""Trains a one-layer model on Bigram-Backcopy (Guo et al., arXiv 2410.13835), the smallest task that makes a sink.

    python backcopy.py --out backcopy-vanilla --source none
    python backcopy.py --out backcopy-vga --source value --placement output

Each symbol follows the one before by a fixed random bigram, but a few trigger symbols repeat what stood before them.
Only after a trigger does attention have work to do; what a head does the rest of the time is what the task shows.
One head, no MLP (its matrices are there, and zero). OUT gets a checkpoint with a tokenizer of 64 characters, text.txt,
a long sequence of the same process to stream, and process.json: the bigram, the triggers, and sequences of their own that
begin with <s>. Half a minute on one CPU core. `scripts/backcopy` trains every variant and measures them.
"""
import argparse
import json
import pathlib
import shutil

import numpy as np
import sentencepiece
import torch
import torch.nn.functional as F

import model as reference

SYMBOLS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-"


class Process:
    """The bigram, its triggers, and sequences of it."""

    def __init__(self, rng, n_triggers, sharpness):
        logits = rng.normal(size=(len(SYMBOLS), len(SYMBOLS))) * sharpness
        self.next = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)                   # (symbol, next symbol)
        unigram = np.linalg.matrix_power(self.next, 64)[0]
        self.triggers = np.argsort(-unigram)[:n_triggers]
        self.first = np.where(np.isin(np.arange(len(SYMBOLS)), self.triggers), 0, unigram)
        self.first /= self.first.sum()
        self.cumulative = self.next.cumsum(1)

    def sequences(self, rng, n, length):
        """(n, length) symbols."""
        out = np.empty((n, length), np.int64)
        out[:, 0] = rng.choice(len(SYMBOLS), n, p=self.first)
        for t in range(1, length):
            last = out[:, t - 1]
            drawn = (rng.random((n, 1)) > self.cumulative[last]).sum(1).clip(max=len(SYMBOLS) - 1)
            out[:, t] = np.where(np.isin(last, self.triggers), out[:, max(t - 2, 0)], drawn)
        return out


def tokenizer(path):
    """A SentencePiece model with no piece longer than a character."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([SYMBOLS] * 10), model_prefix=str(path.with_suffix("")), model_type="bpe",
        vocab_size=len(SYMBOLS) + 3, character_coverage=1.0, normalization_rule_name="identity", add_dummy_prefix=False,
        minloglevel=2)
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--source", default="value", choices=["value", "input", "none"])
    parser.add_argument("--placement", default="output", choices=["output", "value"])
    parser.add_argument("--context", type=int, default=32)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=32, help="rows of a step")
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--triggers", type=int, default=3)
    parser.add_argument("--sharpness", type=float, default=2.0, help="standard deviation of the bigram's logits")
    parser.add_argument("--export-every", type=int, metavar="STEPS", help="also write OUT/step-N on the way")
    parser.add_argument("--rows", type=int, default=200, help="sequences of process.json")
    parser.add_argument("--text", type=int, default=20000, help="symbols of text.txt")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    pieces = tokenizer(args.out / "tokenizer.model")
    ids = np.array([pieces.piece_to_id(symbol) for symbol in SYMBOLS])
    process = Process(rng, args.triggers, args.sharpness)

    model = reference.Model(reference.Config(
        hidden_size=64, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1,
        head_dim=64, vocab_size=pieces.vocab_size(), max_position_embeddings=args.context, tie_word_embeddings=False,
        gate=reference.Gate(args.source, args.placement)))
    for p in model.model.layers[0].mlp.parameters():
        torch.nn.init.zeros_(p).requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=args.lr, weight_decay=0)
    bos = np.full((args.batch, 1), pieces.bos_id())
    for step in range(args.steps):
        rows = np.concatenate([bos, ids[process.sequences(rng, args.batch, args.context)]], 1)
        rows = torch.from_numpy(rows)
        loss = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 200 == 0:
            print(f"step {step + 1} loss {loss.item():.4f}", flush=True)
        if args.export_every and (step + 1) % args.export_every == 0:
            on_the_way = args.out / f"step-{step + 1}"
            reference.save(on_the_way, model)
            shutil.copyfile(args.out / "tokenizer.model", on_the_way / "tokenizer.model")

    reference.save(args.out, model)
    text = process.sequences(np.random.default_rng(args.seed + 1000), 1, args.text)[0]
    (args.out / "text.txt").write_text("".join(SYMBOLS[s] for s in text))
    rows = ids[process.sequences(np.random.default_rng(args.seed + 2000), args.rows, args.context)]
    (args.out / "process.json").write_text(json.dumps({
        "ids": ids.tolist(), "triggers": ids[process.triggers].tolist(), "next": process.next.round(9).tolist(),
        "rows": np.concatenate([np.full((args.rows, 1), pieces.bos_id()), rows], 1).tolist()}) + "\n")
    # What no model can beat: the entropy of the bigram where it draws, nothing where a trigger repeats.
    drawn = ~np.isin(text[:-1], process.triggers)
    floor = -np.log(process.next[text[:-1][drawn], text[1:][drawn]]).sum() / len(drawn)
    print(f"perplexity of text.txt under the process itself: {np.exp(floor):.4f}")


if __name__ == "__main__":
    main()
