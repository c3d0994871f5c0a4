"""Gives a llama-like model attention gates, so that it needs no first token to rest its attention on.

    python retrofit.py --base SmolLM2.gguf --out vga --text stories.txt 0.5 --text conversations.jsonl 0.5

1. What each head spends on the first token is collected from the base, and gates are fitted to give back the rest:
   g_i = sigmoid(W v_i + b) ~ 1 - alpha_i0. docs/retrofit.md says why.
2. Where the huge activations of the first token and of some others are made, an edit of that layer's MLP takes them away.
3. Gates and low-rank updates are trained: the teacher is the base with its full view, the student sees random windows in
   which nothing is kept. Attention on the first token costs, also while it is in view.

Everything is a function of the seed and the step. Run again after an interruption, it goes on from the last state. Writes a
PEFT folder: adapter_config.json and adapter_model.safetensors, which vga-convert reads.

Several processes share the rows of a step: torchrun --nproc-per-node 2 retrofit.py --threads 1 ... On a CPU with other work
to do, two processes of one thread each are much faster than one of two, whose threads wait for each other.
"""
import argparse
import json
import math
import os
import pathlib
import time
import zlib

import numpy as np
import torch
import torch.distributed as processes
import torch.nn.functional as F

import base_model
import model as reference
from student import ATTENTION, MLP, SPIKE, gated_product, hidden, largest, logits, make_student

CLOSED_ENOUGH = 0.02        # a head that spends less than this on the first token has no gate to learn
RARE = 0.002                # spikes at a smaller share of the tokens behind the first are left alone


@torch.compile(dynamic=True)
def divergence(wanted, got):
    """KL, a mean over rows, of the softmax of `wanted` from that of `got`; both (..., vocab)."""
    wanted, got = wanted.float(), got.float()
    p, q = wanted.log_softmax(-1), got.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean()


# ---- what is computed before training -----------------------------------------------------------------------------------

@torch.no_grad()
def collect(model, view, batches, rope):
    """What each head gives to the first token and what its gate would be computed from, per layer: (N, H), (N, n_in)."""
    layers = [([], []) for _ in model.model.layers]
    for tokens in batches:
        view.see(tokens.shape[1], student=False)
        view.fit = []
        hidden(model, tokens, rope)
        for (alphas, inputs), (alpha, x) in zip(layers, view.fit):
            alphas.append(alpha[:, :, 16::2].transpose(1, 2).flatten(0, 1))
            inputs.append(x[:, 16::2].flatten(0, 1))
        view.fit = None
    return [(torch.cat(alphas), torch.cat(inputs)) for alphas, inputs in layers]


def logistic(x, target, ridge=3e-3, iterations=5):
    """Newton's method for sigmoid(x w + b) ~ target, penalised: x (N, n), target (N). Returns w (n), b, R^2 on the last fifth."""
    held = x.shape[0] // 5
    mean, scale = x.mean(0), x.std(0) + 1e-6
    x = torch.cat(((x - mean) / scale, torch.ones(x.shape[0], 1, device=x.device)), 1)
    fit, wanted = x[:-held], target[:-held]
    penalty = torch.full((x.shape[1],), ridge, device=x.device)
    penalty[-1] = 0
    w = torch.zeros_like(penalty)
    w[-1] = torch.logit(wanted.mean().clamp(1e-3, 1 - 1e-3))
    for _ in range(iterations):
        p = torch.sigmoid(fit @ w)
        slope = (p * (1 - p)).clamp_min(1e-4)
        hessian = (fit.T * slope) @ fit / len(fit) + penalty.diag()
        w = w - torch.linalg.solve(hessian, fit.T @ (p - wanted) / len(fit) + penalty * w)
    error = (torch.sigmoid(x[-held:] @ w) - target[-held:]).pow(2).mean()
    r2 = 1 - (error / target[-held:].var().clamp_min(1e-9)).item()
    weight = w[:-1] / scale
    return weight, w[-1] - weight @ mean, r2


@torch.no_grad()
def fit_gates(model, samples):
    """Sets each gate to what 1 - alpha of the first token looks like from its input. Heads without a sink stay open."""
    config, rows = model.config, []
    for layer, (alpha, inputs) in zip(model.model.layers, samples):
        if config.gate.placement == "value":                    # one gate per KV head: the mean of the heads that read it
            alpha = alpha.unflatten(1, (config.num_key_value_heads, -1)).mean(2)
        each = config.head_dim if config.gate.granularity == "element" else 1
        scores = []
        for head in range(alpha.shape[1]):
            if alpha[:, head].mean() < CLOSED_ENOUGH:
                scores.append(math.nan)
                continue
            weight, bias, r2 = logistic(inputs, 1 - alpha[:, head])
            layer.self_attn.gate_proj.weight[head * each:(head + 1) * each] = weight
            layer.self_attn.gate_proj.bias[head * each:(head + 1) * each] = bias
            scores.append(r2)
        rows.append(scores)
    return rows


@torch.no_grad()
def cut_spikes(model, view, tokens, rope, others):
    """From the bottom up, each layer on top of those cut already: where the MLP makes a token's huge activation, W - W U V^T is
    put in the place of gate_proj and up_proj. Then the tokens that spiked find nothing there, others nearly what they did.

    U (D, k): the mean input at the first token, and the leading singular directions, `others` of them, of the inputs at
    other tokens that spike. C: the second moment of the inputs elsewhere. Of all V with V^T U = 1, V = C^-1 U (U^T C^-1 U)^-1
    answers least to them.
    """
    view.see(tokens.shape[1])
    x = model.model.embed_tokens(tokens).float()
    for i, layer in enumerate(model.model.layers):
        mlp, x = layer.mlp, x + layer.self_attn(layer.input_layernorm(x), rope)
        inputs = layer.post_attention_layernorm(x)
        def sizes():
            return largest(gated_product(mlp.gate_proj(inputs), mlp.up_proj(inputs)))
        before, y = sizes(), inputs.float()
        spikes = before > SPIKE * before.median()
        U = [y[:, 0].mean(0, keepdim=True)] if spikes[:, 0].float().mean() > 0.5 else []
        if spikes[:, 1:].float().mean() > RARE and others:
            scale, directions = torch.linalg.svd(y[:, 1:][spikes[:, 1:]] / spikes[:, 1:].sum().sqrt(), full_matrices=False)[1:]
            U.append(directions[:others] * scale[:others, None])
        if U:
            spikes[:, 0] = True
            U, rest = torch.cat(U), y[~spikes]
            moment = rest.T @ rest / len(rest)
            V = torch.linalg.solve(moment + 1e-3 * moment.diagonal().mean() * torch.eye(len(moment), device=x.device), U.T)
            for matrix in (mlp.gate_proj, mlp.up_proj):
                matrix.cut(U, torch.linalg.solve((U @ V).T, V.T))
            after = sizes()
            print(f"layer {i}: {len(U)} directions cut; largest input of down_proj, median {before.median():.1f}: at the first token "
                  f"{before[:, 0].mean():.1f} -> {after[:, 0].mean():.1f}, at others up to {before[:, 1:].max():.1f} -> "
                  f"{after[:, 1:].max():.1f}; {spikes.float().mean():.1%} of the tokens spiked", flush=True)
        x = x + mlp(inputs)


# ---- text --------------------------------------------------------------------------------------------------------------

def encode(path, tokenizer, template, cache):
    """The tokens of a file: .jsonl holds conversations, .ids token numbers, a line each; else documents of text."""
    path = pathlib.Path(path)
    if path.suffix == ".ids":
        return [np.array(line.split(), np.int32) for line in path.read_text().splitlines()]
    file = cache / f"{path.stem}-{zlib.crc32(str(path.resolve()).encode()):08x}.npz"
    if not file.exists():
        if path.suffix == ".jsonl":
            import jinja2
            render = jinja2.Template(template).render
            texts = [render(messages=json.loads(line)) for line in path.read_text().splitlines()]
        else:
            texts = path.read_text().split("\n<|endoftext|>\n")
        docs = [np.array(encoding.ids, np.int32) for encoding in tokenizer.encode_batch_fast(texts)]
        np.savez(file.with_suffix(".part.npz"), tokens=np.concatenate(docs), lengths=[len(d) for d in docs])
        file.with_suffix(".part.npz").replace(file)
    arrays = np.load(file)
    return np.split(arrays["tokens"], np.cumsum(arrays["lengths"])[:-1])


def cut(docs, length, rng, anywhere=0.5):
    """A row: documents from a random one on, joined. This share of the rows begins in the middle of the document."""
    row = []
    while sum(map(len, row)) < length:
        doc = docs[rng.integers(len(docs))]
        middle = not row and (rng.random() < anywhere or len(doc) > 8 * length)
        row.append(doc[rng.integers(max(1, len(doc) - length // 2)):] if middle else doc)
    return np.concatenate(row)[:length].astype(np.int64)


def rows(texts, count, length, rng):
    shares = np.array([share for _, share in texts])
    chosen = rng.choice(len(texts), count, p=shares / shares.sum())
    return torch.from_numpy(np.stack([cut(texts[i][0], length, rng) for i in chosen]))


# Length of the rows of a step, its share of the steps, and the windows one of which a step has; 0: the full view.
SHAPES = [(512, 0.40, (64, 128, 256, 0, 0, 0)), (1024, 0.35, (128, 256, 512, 0, 0, 0)), (2048, 0.25, (512, 1024, 0, 0))]


# ---- the run -----------------------------------------------------------------------------------------------------------

@torch.no_grad()
def held_out(model, view, tokens, rope, views):
    """Perplexity of the second half of each row, for each (student, window, kept)."""
    half, results = tokens.shape[1] // 2, []
    for student, window, kept in views:
        total = 0.0
        for row in tokens.split(1):
            view.see(tokens.shape[1], window, kept, student, tokens.device)
            h = hidden(model, row, rope)[:, half:-1]
            total += F.cross_entropy(logits(model, h)[0].float(), row[0, half + 1:]).item()
        results.append(math.exp(total / len(tokens)))
    return results


def report_held_out(model, view, tokens, rope, student):
    views = [(student, w, kept) for w, kept in ((0, 0), (128, 0), (128, 4), (256, 0), (256, 4))]
    names = ("full", "128+0", "128+4", "256+0", "256+4")
    results = held_out(model, view, tokens, rope, views)
    print("held-out " + ("student" if student else "base") + ": "
          + ", ".join(f"{name} {ppl:.2f}" for name, ppl in zip(names, results)), flush=True)


def strayed(wanted, got):
    """How far the student's states are from the teacher's where those do not spike: |got - wanted|^2 / |wanted|^2, a mean."""
    total = 0.0
    for (target, quiet), (state, _) in zip(wanted, got):
        target, state = target.float(), state.float()
        far = (state - target).pow(2).sum(-1) / target.pow(2).sum(-1).clamp_min(1e-6)            # (B, T)
        total = total + (far * quiet).sum() / quiet.sum()
    return total / len(wanted)


def losses(model, view, tokens, rope, window, args, rng):
    """(KL from teacher to student, how far states strayed, attention on the first token, spikes), each a scalar."""
    T = tokens.shape[1]
    scored = torch.arange(16 + int(rng.integers(args.stride)), T, args.stride, device=tokens.device)
    with torch.no_grad():
        view.see(T, student=False)
        view.states = []
        wanted = logits(model, hidden(model, tokens, rope)[:, scored])
        states = view.states
    view.see(T, window, device=tokens.device)
    view.first, view.peaks, view.states, view.int8 = [], [], [], rng.random() < args.int8
    view.queries = torch.from_numpy(np.sort(rng.choice(np.arange(8, min(window or T, T)), 32))).to(tokens.device)
    h = hidden(model, tokens, rope)
    view.queries = None
    got = logits(model, h[:, scored])
    kl = divergence(wanted, got)
    first = -torch.log1p(-torch.stack(view.first).clamp(max=0.999)).mean()
    spike = torch.stack(view.peaks).mean(1).sum()
    astray = strayed(states[1:], view.states[1:])       # all read the same in the first layer
    view.peaks, view.states, view.int8 = None, None, False
    return kl, astray, first, spike


def export(folder, params, gate, args):
    """Writes the PEFT folder; params: name -> tensor."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, p in params.items():
        if name.endswith(("lora_A", "lora_B")):
            name += ".weight"
        tensors[f"base_model.model.{name}"] = p.to(torch.float16)
    reference.save_safetensors(folder / "adapter_model.safetensors", tensors)
    ranks = {name.removeprefix("model.").removesuffix(".lora_A"): len(p) for name, p in params.items() if name.endswith("lora_A")}
    rank = max(ranks.values(), default=0)  # 0 where there are gates alone
    config = {
        "peft_type": "LORA", "base_model_name_or_path": args.name or pathlib.Path(args.base).stem, "r": rank,
        "lora_alpha": rank, "use_rslora": False, "use_dora": False, "bias": "none", "lora_dropout": 0.0,
        "fan_in_fan_out": False, "task_type": "CAUSAL_LM", "target_modules": list(ATTENTION + MLP)}
    config["rank_pattern"] = {name: own for name, own in ranks.items() if own != rank}
    config["alpha_pattern"] = dict(config["rank_pattern"])
    if gate.source != "none":
        config["attention_gate"] = vars(gate)
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, type=pathlib.Path, help="GGUF file, or Hugging Face folder")
    parser.add_argument("--name", help="name of the base for adapter_config.json")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="PEFT folder to write")
    parser.add_argument("--state", type=pathlib.Path, help="folder of what is needed to go on (default: OUT.state)")
    parser.add_argument("--text", required=True, nargs=2, action="append", metavar=("FILE", "SHARE"),
                        help="text (documents parted by <|endoftext|>), or .jsonl of conversations; may be repeated")
    parser.add_argument("--begin", type=pathlib.Path, metavar="ADAPTER",
                        help="begin with this adapter's gates and updates, a folder or a GGUF file")
    parser.add_argument("--heldout", type=pathlib.Path, metavar="FILE", help="a text to score")
    parser.add_argument("--heldout-rows", type=int, default=4, help="of 1,024 tokens")
    parser.add_argument("--source", default="value", choices=["value", "input", "none"], help="the gate; none: updates alone")
    parser.add_argument("--placement", default="output", choices=["output", "value"])
    parser.add_argument("--granularity", default="head", choices=["head", "element"])
    parser.add_argument("--rank", type=int, default=16, help="of the updates of q, k, v and o; 0: gates alone")
    parser.add_argument("--mlp-rank", type=int, default=8, help="of the updates of the MLPs, beside what the cut takes")
    parser.add_argument("--keep-spike", action="store_true", help="leave huge activations where they are")
    parser.add_argument("--cut-others", type=int, default=2, metavar="N", help="directions cut for tokens behind the first")
    parser.add_argument("--states", type=float, default=1.0, metavar="WEIGHT", help="cost of layers' inputs unlike the teacher's")
    parser.add_argument("--first", type=float, default=0.1, metavar="WEIGHT", help="cost of attention on the first token")
    parser.add_argument("--spike", type=float, default=0.02, metavar="WEIGHT", help="cost of huge activations")
    parser.add_argument("--int8", type=float, default=0.0, metavar="SHARE", help="of the steps have activations of 8 bits")
    parser.add_argument("--tokens", type=int, default=1_500_000, help="to see, all in all")
    parser.add_argument("--batch", type=int, default=2048, help="tokens of a step")
    parser.add_argument("--stride", type=int, default=4, help="every so many-th position is distilled")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--average", type=int, default=10, metavar="STEPS", help="the mean over about so many is written")
    parser.add_argument("--fit-rows", type=int, default=24, help="rows of 512 tokens that gates are fitted on")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2, help="of each process")
    parser.add_argument("--device", default="cpu", help="where to compute: cpu, cuda")
    parser.add_argument("--float32", action="store_true", help="matrices in float32 instead of bfloat16")
    parser.add_argument("--eval-every", type=int, default=50, metavar="STEPS")
    parser.add_argument("--save-every", type=int, default=5, metavar="STEPS")
    parser.add_argument("--minutes", type=float, help="stop after so long (one process); the same command goes on from there")
    return parser.parse_args()


def prepare(model, view, texts, rope, args):
    """Steps 1 and 2: gates in closed form or those of an adapter, spikes taken away, and empty updates where there is none."""
    rng = np.random.default_rng([args.seed, 1])
    batches = [rows(texts, 4, 512, rng).to(args.device) for _ in range(args.fit_rows // 4)]
    if args.begin:
        take(model, base_model.load_adapter(args.begin, model.config), args.begin)
    elif model.config.gate.source != "none":
        for i, scores in enumerate(fit_gates(model, collect(model, view, batches, rope))):
            print(f"layer {i}: R^2 of its gates " + " ".join("open" if math.isnan(r) else f"{r:.2f}" for r in scores))
    for layer in model.model.layers:
        for block, names, rank in ((layer.self_attn, ATTENTION, args.rank), (layer.mlp, MLP, args.mlp_rank)):
            for matrix in (getattr(block, name) for name in names):
                if rank and not matrix.rank:
                    matrix.update(rank)
    if not args.keep_spike:
        cut_spikes(model, view, torch.cat(batches), rope, args.cut_others)


@torch.no_grad()
def take(model, tensors, source):
    """Makes these the parameters of updates and gates: name -> tensor. An update gets the rank that its A has."""
    modules = dict(model.named_modules())
    for name, tensor in tensors.items():
        if name.endswith(".lora_A") and name.removesuffix(".lora_A") in modules:
            modules[name.removesuffix(".lora_A")].update(len(tensor))
    params = dict(model.named_parameters())
    for name, tensor in tensors.items():
        if name not in params or params[name].shape != tensor.shape:
            wanted = f"of {list(params[name].shape)}" if name in params else "no such tensor"
            raise SystemExit(f"{source}: {name}: wanted {wanted}, found one of {list(tensor.shape)}")
        params[name].copy_(tensor)


def trained(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


class Run:
    """Model, optimizer and step: what goes into the state and comes back from it. What is written for use is a running mean
    of the parameters, so that it is good at any time, not only when the learning rate has fallen."""

    def __init__(self, args, model, view, texts, rope):
        self.args, self.model, self.file = args, model, args.state / "state.pt"
        saved = torch.load(self.file, weights_only=True, map_location=args.device) if self.file.exists() else None
        if saved:
            take(model, saved["model"], self.file)
        else:
            prepare(model, view, texts, rope, args)
        for name, p in model.named_parameters():
            p.requires_grad_(name.endswith(("lora_A", "lora_B")) or ".self_attn.gate_proj." in name)
        model.to(args.device)
        self.optimizer = torch.optim.AdamW(trained(model).values(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.0)
        self.step = self.tokens = 0
        self.mean = {name: p.detach().clone() for name, p in trained(model).items()}
        if saved:
            self.mean = saved["mean"]
            self.optimizer.load_state_dict(saved["optimizer"])
            self.step, self.tokens = saved["step"], saved["tokens"]
        elif not processes.is_initialized() or processes.get_rank() == 0:
            self.save()

    def update(self, lr):
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        for name, p in trained(self.model).items():
            self.mean[name].lerp_(p.detach(), 1 / min(self.step, self.args.average))

    def save(self):
        values = {"step": self.step, "tokens": self.tokens, "model": trained(self.model), "mean": self.mean,
                  "optimizer": self.optimizer.state_dict()}
        torch.save(values, self.file.with_suffix(".part"))
        os.replace(self.file.with_suffix(".part"), self.file)
        export(self.args.out, self.mean, self.model.config.gate, self.args)


def average_gradients(params):
    """Over the processes."""
    if not processes.is_initialized():
        return
    flat = torch.cat([p.grad.flatten() for p in params])
    processes.all_reduce(flat)
    for p, grad in zip(params, flat.div_(processes.get_world_size()).split([p.numel() for p in params])):
        p.grad.copy_(grad.view_as(p))


def train(run, view, texts, heldout, rope, args):
    start = since = time.time()
    sums, counted = np.zeros(4), 0
    n, rank = (processes.get_world_size(), processes.get_rank()) if processes.is_initialized() else (1, 0)
    while run.tokens < args.tokens:
        rng = np.random.default_rng([args.seed, 2, run.step])           # the same in all processes
        length, _, windows = SHAPES[rng.choice(len(SHAPES), p=[share for _, share, _ in SHAPES])]
        window = int(rng.choice(windows))
        rng = np.random.default_rng([args.seed, 3, run.step, rank])
        tokens = rows(texts, max(1, args.batch // n // length), length, rng).to(args.device)
        costs = losses(run.model, view, tokens, rope(length), window, args, rng)
        sum(weight * cost for weight, cost in zip((1, args.states, args.first, args.spike), costs)).backward()
        average_gradients(list(trained(run.model).values()))
        torch.nn.utils.clip_grad_norm_(trained(run.model).values(), 1.0)
        left = 1 - run.tokens / args.tokens
        run.update(args.lr * min(1, (run.step + 1) / 10, left))
        run.tokens += n * tokens.numel()
        sums += [cost.item() for cost in costs]
        counted += n * tokens.numel()
        if run.step % 5 == 0 and rank == 0:
            kl, states, first, spike = sums / 5
            print(f"{time.strftime('%H:%M:%S')} step {run.step} tokens {run.tokens} kl {kl:.4f} states {states:.4f} first {first:.4f} "
                  f"spike {spike:.2f} tok/s {counted / (time.time() - since):.0f}", flush=True)
            since, counted, sums = time.time(), 0, np.zeros(4)
        enough = args.minutes is not None and n == 1 and time.time() - start > 60 * args.minutes
        if rank:
            continue
        if run.step % args.save_every == 0 or run.tokens >= args.tokens or enough:
            run.save()
        if heldout is not None and (run.step % args.eval_every == 0 or run.tokens >= args.tokens):
            report_held_out(run.model, view, heldout, rope(1024), True)
            since = time.time()
        if enough:
            print(f"stopped after {run.tokens} of {args.tokens} tokens; run it again to go on", flush=True)
            return


def main():
    args = parse()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.state = args.state or args.out.with_name(args.out.name + ".state")
    args.state.mkdir(parents=True, exist_ok=True)
    if "RANK" in os.environ:                                    # by torchrun
        processes.init_process_group("gloo")
    model, tokenizer, template = base_model.load(args.base)
    texts = [(encode(path, tokenizer, template, args.state.parent), float(share)) for path, share in args.text]
    for (docs, _), (path, _) in zip(texts, args.text):
        print(f"{path}: {len(docs)} documents, {sum(map(len, docs))} tokens", flush=True)

    gate = reference.Gate(args.source, args.placement, args.granularity)
    view = make_student(model, gate, torch.float32 if args.float32 else torch.bfloat16)
    model.to(args.device)
    longest = reference.rope_table(model.config, max(length for length, *_ in SHAPES), device=args.device)
    def rope(length):
        return tuple(table[:length] for table in longest)
    run = Run(args, model, view, texts, rope(512))
    print(f"{sum(p.numel() for p in trained(model).values())} numbers to train, {args.tokens} tokens to see", flush=True)
    heldout = None
    if args.heldout:
        docs = encode(args.heldout, tokenizer, template, args.state.parent)
        heldout = rows([(docs, 1.0)], args.heldout_rows, 1024, np.random.default_rng(0)).to(args.device)
        if run.step == 0 and not processes.is_initialized():
            report_held_out(model, view, heldout, rope(1024), False)
            report_held_out(model, view, heldout, rope(1024), True)
    train(run, view, texts, heldout, rope, args)


if __name__ == "__main__":
    main()
