"""Held-out figures, samples and attention statistics of checkpoint folders.

    python evaluate.py CHECKPOINT... --heldout FILE...            bits per byte on held-out documents
    python evaluate.py CHECKPOINT --prompt "Once upon a time"      samples
    python evaluate.py CHECKPOINT... --sinks FILE                  what attention, gates and values do at <s>
"""
import argparse
import math
import pathlib

import sentencepiece
import torch
import torch.nn.functional as F

import model as reference

BOS, EOS = 1, 2


def documents(path):
    """The documents of a text file, which a line `<|endoftext|>` separates."""
    parts = pathlib.Path(path).read_text(encoding="utf-8").split("<|endoftext|>")
    return [part.strip("\n") for part in parts if part.strip()]


def held_out(model, tokenizer, path, max_tokens=None, batch=8):
    """Scores documents in pieces of context - 1 tokens, each preceded by <s>; a document ends with its </s>.

    Returns (tokens scored, nll per token, perplexity per token, bits per byte of the raw text).
    """
    length = model.config.max_position_embeddings - 1
    pieces, size, n_bytes = [], 0, 0
    for text in documents(path):
        ids = tokenizer.encode(text) + [EOS]
        pieces += [ids[i:i + length] for i in range(0, len(ids), length)]
        size += len(ids)
        n_bytes += len(text.encode())
        if max_tokens and size >= max_tokens:
            break
    pieces.sort(key=len)                                        # rows of a batch are about as long: little padding
    total = 0.0
    device = model.model.embed_tokens.weight.device
    with torch.no_grad():
        for i in range(0, len(pieces), batch):
            rows = pieces[i:i + batch]
            width = max(map(len, rows))
            inputs = torch.tensor([[BOS] + row[:-1] + [0] * (width - len(row)) for row in rows], device=device)
            targets = torch.tensor([row + [-100] * (width - len(row)) for row in rows], device=device)
            total += F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), reduction="sum").item()
    nll = total / size
    return size, nll, math.exp(nll), total / math.log(2) / n_bytes


def sample(model, tokenizer, prompt, seed, temperature=0.8, length=240):
    """One story, drawn token by token (without a cache: this is the reference, not the runtime)."""
    generator = torch.Generator().manual_seed(seed)
    ids = [BOS] + tokenizer.encode(prompt)
    with torch.no_grad():
        while len(ids) < length:
            logits = model(torch.tensor([ids]))[0, -1]
            token = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator).item()
            if token == EOS:
                break
            ids.append(token)
    return tokenizer.decode(ids[1:])


def sinks(model, tokenizer, path, length=256, rows=32):
    """Per layer, on rows `<s>` + the first tokens of a document: a table (layers, columns) of means over rows and heads.

    attention  mean weight on <s> of the queries from position 32 on;   head  the same of the head where it is largest
    through    the same times the gate it passes (attention itself without a gate)
    values     norm of the value of <s> / mean norm of the other values;   gate  mean gate;   at <s>  gate of <s>
    """
    ids = []
    for text in documents(path):
        ids += [BOS] + tokenizer.encode(text) + [EOS]
        if len(ids) >= rows * length:
            break
    rows = min(rows, len(ids) // (length - 1))
    cut = [[BOS] + ids[1 + i * (length - 1):1 + (i + 1) * (length - 1)] for i in range(rows)]
    records = [{} for _ in model.model.layers]
    with torch.no_grad():
        model(torch.tensor(cut), records)
    table = []
    for record in records:
        attention = torch.cat(record["attention"], 2)[:, :, 32:, 0]                      # (B, H, T - 32)
        norms = record["values"].norm(dim=-1).mean(-1)                              # (B, T)
        ratio = (norms[:, 0].mean() / norms[:, 1:].mean()).item()
        gate, through = record["gate"], attention
        if gate is not None and model.config.gate.placement == "output":
            through = attention * gate.mean(-1)[:, 32:].transpose(1, 2)
        elif gate is not None:
            per_query_head = attention.shape[1] // gate.shape[2]
            through = attention * gate.mean(-1)[:, :1].transpose(1, 2).repeat_interleave(per_query_head, 1)
        table.append([attention.mean().item(), attention.mean((0, 2)).max().item(), through.mean().item(), ratio,
                      gate.mean().item() if gate is not None else None,
                      (gate < 0.1).float().mean().item() if gate is not None else None,
                      gate[:, 0].mean().item() if gate is not None else None])
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", help="checkpoint folders (config.json, model.safetensors, tokenizer.model)")
    parser.add_argument("--heldout", nargs="*", default=[], metavar="FILE", help="score these files")
    parser.add_argument("--max-tokens", type=int, help="score only the first documents of a file, about so many tokens")
    parser.add_argument("--prompt", nargs="*", default=[], help="tell a story that begins so (several may be given)")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--length", type=int, default=240, help="tokens of a story at most")
    parser.add_argument("--sinks", metavar="FILE", help="attention, gate and value statistics on this text")
    parser.add_argument("--row", type=int, default=256, help="tokens of a row for --sinks")
    args = parser.parse_args()
    for folder in args.checkpoints:
        model = reference.load(folder)
        tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(pathlib.Path(folder) / "tokenizer.model"))
        print(f"== {folder}")
        for path in args.heldout:
            size, nll, ppl, bits = held_out(model, tokenizer, path, args.max_tokens)
            print(f"{pathlib.Path(path).name}: {size} tokens, nll {nll:.4f}, ppl {ppl:.2f}, bits per byte {bits:.4f}")
        for seed, prompt in enumerate(args.prompt, 1):
            print(f"-- seed {seed}\n{sample(model, tokenizer, prompt, seed, args.temperature, args.length)}")
        if args.sinks:
            print("layer  attention  head   through  values  gate   <0.1   at <s>")
            for layer, row in enumerate(sinks(model, tokenizer, args.sinks, args.row)):
                print(f"{layer:5}  " + "  ".join("  -  " if x is None else f"{x:.4f}" for x in row))


if __name__ == "__main__":
    main()
