"""Trains a storyteller, with an attention gate or without, and writes its checkpoint folder.

    python train.py --out stories --text tinystories.txt 0.5 0.7 --text classics.txt 0.5 0.3 --heldout heldout.txt

Everything is a function of the seed and the step, never of the clock: two runs that differ only in --source see the
same rows in the same order from the same initial matrices, which is what makes them twins. Run again after an
interruption, it goes on from the last state.

The schedule has two phases. First a constant learning rate, rows of half the context and the first share of each text;
then, for the last --decay steps, a learning rate that falls linearly to zero, rows of the whole context and the second
share. So the length of the first phase can still be changed while it runs.
"""
import argparse
import functools
import math
import os
import pathlib
import shutil
import time
import zlib

import numpy as np
import sentencepiece
import torch
import torch.nn.functional as F

import model as reference
from evaluate import BOS, EOS, documents, held_out


# ---- text --------------------------------------------------------------------------------------------------------------

def train_tokenizer(path, texts, vocab_size):
    """A SentencePiece BPE model with byte fallback that changes nothing: no normalisation, spaces kept, newline a byte."""
    def lines():
        for text in texts:
            for document in documents(text):
                yield from filter(None, document.split("\n"))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines(), model_prefix=str(path.with_suffix("")), vocab_size=vocab_size, model_type="bpe",
        byte_fallback=True, character_coverage=0.9999, normalization_rule_name="identity",
        remove_extra_whitespaces=False, split_digits=True, minloglevel=1)


def encode(path, tokenizer, cache):
    """The tokens of every document of a file, each closed by </s> <s>; kept in `cache` for the next run."""
    file = cache / f"{path.stem}-{zlib.crc32(tokenizer.serialized_model_proto()):08x}.npz"
    if not file.exists():
        docs = [np.array(ids + [EOS, BOS], np.uint16) for ids in tokenizer.encode(documents(path))]
        np.savez(file.with_suffix(".part.npz"), tokens=np.concatenate(docs), lengths=[len(d) for d in docs])
        file.with_suffix(".part.npz").replace(file)
    arrays = np.load(file)
    return np.split(arrays["tokens"], np.cumsum(arrays["lengths"])[:-1])


def rows(docs, length, crop, rng):
    """Endless rows of length + 1 tokens. Documents are shuffled and joined, cut, and the cuts shuffled; each epoch anew.

    Every row begins with <s>, also where a document was cut: that is how the model is scored and used, and a model that
    never misses <s> is free to make it a sink, which is the point of comparing one with a gate to one without. Of the
    rows, a share of `crop` does without: those are the same text, cut one token later.
    """
    chance, = rng.spawn(1)                                      # its own draws: --crop leaves the order of the rows alone
    while True:
        stream = np.concatenate([docs[i] for i in rng.permutation(len(docs))])
        for i in rng.permutation((len(stream) - 1) // length):
            cut = stream[i * length:(i + 1) * length + 1]
            yield cut if chance.random() < crop else np.concatenate(([BOS], cut[:-1]))


def batches(texts, steps, decay, batch_tokens, context, crop, seed):
    """Yields (inputs, targets) for every step from the first. texts: (documents, first share, second share)."""
    for phase, (begin, end, length) in enumerate([(0, steps - decay, context // 2), (steps - decay, steps, context)]):
        streams = [rows(docs, length, crop, np.random.default_rng([seed, phase, i])) for i, (docs, *_) in enumerate(texts)]
        shares = np.array([text[1 + phase] for text in texts]) / sum(text[1 + phase] for text in texts)
        for step in range(begin, end):
            # The phase's own count seeds the choice, so that a longer first phase leaves the second as it is.
            rng = np.random.default_rng([seed, phase, step - begin, 1])
            chosen = rng.choice(len(texts), batch_tokens // length, p=shares)
            block = torch.from_numpy(np.stack([next(streams[i]) for i in chosen]).astype(np.int64))
            yield block[:, :-1].contiguous(), block[:, 1:].contiguous()


# ---- optimization ------------------------------------------------------------------------------------------------------

def initialize(model, seed):
    """Each matrix is drawn from a generator seeded by its own name, so a model with a gate and one without start equal.

    Projections back into the residual stream start at zero, and so do gates: every gate begins at 1/2.
    """
    for name, p in model.named_parameters():
        if p.ndim < 2:
            torch.nn.init.constant_(p, 0.0 if name.endswith("bias") else 1.0)
        elif name.endswith(("self_attn.gate_proj.weight", "o_proj.weight", "down_proj.weight")):
            torch.nn.init.zeros_(p)
        else:
            std = 0.02 if "embed" in name or "lm_head" in name else p.shape[1] ** -0.5
            torch.nn.init.normal_(p, std=std, generator=torch.Generator().manual_seed(seed + zlib.crc32(name.encode())))


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal (Jordan et al. 2024): every direction of a matrix learns equally fast.

    The update is scaled to the root mean square 0.2 that AdamW's has, so that both share one learning rate.
    """

    def __init__(self, params, lr, momentum=0.95, weight_decay=0.1):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @staticmethod
    def orthogonalize(x, iterations=5):
        """The nearest semi-orthogonal matrix of each (n, rows, columns), roughly, by Newton-Schulz in bfloat16."""
        tall = x.shape[-2] > x.shape[-1]
        x = x.mT if tall else x
        x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()
        for _ in range(iterations):
            a = x @ x.mT
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
        return x.mT if tall else x

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            shapes = {}
            for p in group["params"]:
                shapes.setdefault(p.shape, []).append(p)
            for shape, params in shapes.items():                # all layers at once: the matrices are small
                moments = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in params]
                for p, m in zip(params, moments):
                    m.lerp_(p.grad, 1 - group["momentum"])
                ahead = torch.stack([p.grad.lerp(m, group["momentum"]) for p, m in zip(params, moments)])    # Nesterov
                for p, update in zip(params, self.orthogonalize(ahead)):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(update, alpha=-group["lr"] * 0.2 * math.sqrt(max(shape)))


def optimizers(model, lr, matrices_by):
    """Muon or AdamW for the matrices of the layers; AdamW without weight decay for embeddings, norms and gates."""
    matrices, rest = [], []
    for name, p in model.named_parameters():
        inner = p.ndim == 2 and ".layers." in name and "self_attn.gate_proj" not in name
        (matrices if inner else rest).append(p)
    adamw = functools.partial(torch.optim.AdamW, lr=lr, betas=(0.9, 0.95), fused=True)
    return [Muon(matrices, lr) if matrices_by == "muon" else adamw(matrices, weight_decay=0.1),
            adamw(rest, weight_decay=0.0)]


def learning_rate(step, peak, steps, decay, warmup=50):
    return peak * min(1, (step + 1) / warmup, (steps - step) / decay)


# ---- the run -----------------------------------------------------------------------------------------------------------

def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=pathlib.Path, help="checkpoint folder to write")
    parser.add_argument("--state", type=pathlib.Path, help="folder of what is needed to go on (default: OUT.state)")
    parser.add_argument("--text", required=True, nargs=3, action="append", metavar=("FILE", "SHARE", "LATER"),
                        help="a text, its share of the rows in the first and in the second phase; may be repeated")
    parser.add_argument("--heldout", nargs="*", default=[], metavar="FILE", help="texts to score; the first one also during the run")
    parser.add_argument("--init", type=pathlib.Path, metavar="FOLDER",
                        help="go on from this checkpoint: its sizes, its gate and its tokenizer, a new schedule")
    parser.add_argument("--tokenizer", type=pathlib.Path, help="a tokenizer.model; default: trained on --tokenizer-text")
    parser.add_argument("--tokenizer-text", nargs="*", default=[], metavar="FILE", help="default: all texts")
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--source", default="value", choices=["value", "input", "none"], help="the gate; none: a plain Llama")
    parser.add_argument("--placement", default="output", choices=["output", "value"])
    parser.add_argument("--granularity", default="head", choices=["head", "element"])
    parser.add_argument("--no-bias", action="store_true", help="a gate without a bias")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--mlp", type=int, default=688)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--kv-heads", type=int, default=4)
    parser.add_argument("--head-dim", type=int, default=32)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--decay", type=int, default=800, help="steps of the second phase, at the end")
    parser.add_argument("--batch", type=int, default=4096, help="tokens of a step")
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--optimizer", default="muon", choices=["muon", "adamw"], help="of the layers' matrices")
    parser.add_argument("--crop", type=float, default=0.0, metavar="SHARE", help="this share of the rows lacks its <s>")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="where to compute: cpu, cuda")
    parser.add_argument("--save-every", type=int, default=100, metavar="STEPS")
    parser.add_argument("--minutes", type=float, help="stop after so long; the same command goes on from there")
    parser.add_argument("--no-compile", action="store_true", help="plain PyTorch, where torch.compile finds no C++ compiler")
    return parser.parse_args()


def main():
    args = parse()
    torch.set_num_threads(args.threads)
    state = args.state or args.out.with_name(args.out.name + ".state")
    state.mkdir(parents=True, exist_ok=True)

    args.tokenizer = args.init / "tokenizer.model" if args.init else args.tokenizer or state / "tokenizer.model"
    if not args.tokenizer.exists():
        train_tokenizer(args.tokenizer, args.tokenizer_text or [path for path, *_ in args.text], args.vocab)
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(args.tokenizer))
    texts = [(encode(pathlib.Path(path), tokenizer, state), float(share), float(later)) for path, share, later in args.text]
    for (docs, *_), (path, *_) in zip(texts, args.text):
        print(f"{path}: {len(docs)} documents, {sum(map(len, docs))} tokens")

    if args.init:
        model = reference.load(args.init).train()
        args.context = model.config.max_position_embeddings
    else:
        gate = reference.Gate(args.source, args.placement, args.granularity, not args.no_bias)
        model = reference.Model(reference.Config(
            args.hidden, args.mlp, args.layers, args.heads, args.kv_heads, args.head_dim, tokenizer.vocab_size(),
            args.context, gate=gate))
        initialize(model, args.seed)
    model.to(args.device)
    for layer in model.model.layers:
        layer.self_attn.block = 64 if args.device == "cpu" and not args.no_compile else 0
    optims = optimizers(model, args.lr, args.optimizer)
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {args.steps * args.batch} tokens to see", flush=True)

    first = 0
    resume = state / "state.pt"
    if resume.exists():
        saved = torch.load(resume, weights_only=True, map_location=args.device)
        first = saved["step"]
        model.load_state_dict(saved["model"])
        for optim, values in zip(optims, saved["optims"]):
            optim.load_state_dict(values)

    def loss_of(inputs, targets):
        # Products in bfloat16, weights and residual in float32.
        with torch.autocast(torch.device(args.device).type, torch.bfloat16):
            logits = model(inputs)
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
    if not args.no_compile:
        loss_of = torch.compile(loss_of, dynamic=False)

    start = since = time.time()
    mean = None
    schedule = batches(texts, args.steps, args.decay, args.batch, args.context, args.crop, args.seed)
    for step, (inputs, targets) in enumerate(schedule):
        if step < first:                                        # on the way back to where the last run stopped
            continue
        loss = loss_of(inputs.to(args.device), targets.to(args.device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optim in optims:
            for group in optim.param_groups:
                group["lr"] = learning_rate(step, args.lr, args.steps, args.decay)
            optim.step()
            optim.zero_grad()
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        done = step + 1
        if done % 20 == 0:
            speed = 20 * args.batch / (time.time() - since)
            since = time.time()
            print(f"{time.strftime('%H:%M:%S')} step {done} loss {loss.item():.4f} mean {mean:.4f} tok/s {speed:.0f}", flush=True)
        enough = args.minutes is not None and time.time() - start > 60 * args.minutes and done < args.steps
        if done % args.save_every == 0 or done == args.steps or enough:
            values = {"step": done, "model": model.state_dict(), "optims": [optim.state_dict() for optim in optims]}
            torch.save(values, resume.with_suffix(".part"))
            os.replace(resume.with_suffix(".part"), resume)
            if enough:
                print(f"stopped after {done} of {args.steps} steps; run it again to go on", flush=True)
                return
            if args.heldout:
                _, nll, _, bits = held_out(model, tokenizer, args.heldout[0], max_tokens=8000)
                print(f"step {done} held-out (a part) nll {nll:.4f} bits per byte {bits:.4f}", flush=True)

    reference.save(args.out, model, torch.float16)
    shutil.copyfile(args.tokenizer, args.out / "tokenizer.model")
    model = reference.load(args.out).to(args.device)            # what is scored is what was written
    for path in args.heldout:
        size, nll, ppl, bits = held_out(model, tokenizer, path)
        print(f"{path}: {size} tokens, nll {nll:.4f}, ppl {ppl:.2f}, bits per byte {bits:.4f}", flush=True)


if __name__ == "__main__":
    main()
