"""How well a token foretells what each head will spend on the first token: R^2 of 1 - alpha, from the token's values and from its
input, for every layer and head of a base. A gate can do no better at the start than this.

    python foretell.py --base SmolLM2.gguf --text stories.txt 0.5 --text conversations.jsonl 0.5 --svg r2.svg > r2.csv

Logistic regression as retrofit.py begins with: fitted on the first four fifths of the tokens, R^2 on the last fifth.
"""
import argparse
import pathlib

import numpy as np
import torch

import base_model
import model as reference
import retrofit
import student

CELL, LEFT, TOP, GAP = 22, 60, 66, 70
SOURCES = {"value": "from its values", "input": "from its input"}


def measure(model, view, batches, rope, source):
    """[(mean of alpha, R^2), ...] for each layer: one pair a head."""
    model.config.gate.source = source
    samples = retrofit.collect(model, view, batches, rope)
    return [[(a.mean().item(), retrofit.logistic(inputs, 1 - a)[2]) for a in alpha.T] for alpha, inputs in samples]


def svg(results):
    """A picture: a column a layer, a row a head, the darker the better; a cross where less than .02 goes to the first token."""
    heads, layers = len(results["value"][0]), len(results["value"])
    width, panel = LEFT + CELL * layers + 20, CELL * heads + GAP
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {TOP + panel * len(results)}" '
           'font-family="sans-serif" font-size="13">', '<rect width="100%" height="100%" fill="white"/>',
           f'<text x="{LEFT}" y="22" font-size="15">R² of 1 − α, the share of a head that does not go to the first token</text>']
    for number, (source, rows) in enumerate(results.items()):
        top = TOP + panel * number
        out.append(f'<text x="{LEFT}" y="{top - 10}">{SOURCES[source]}</text>'
                   f'<text x="{LEFT - 34}" y="{top + 15}">head</text>'
                   f'<text x="{LEFT + CELL * layers / 2}" y="{top + CELL * heads + 36}" text-anchor="middle">layer</text>')
        for i in range(0, layers, 5):
            out.append(f'<text x="{LEFT + CELL * (i + .5)}" y="{top + CELL * heads + 18}" text-anchor="middle">{i}</text>')
        for i, row in enumerate(rows):
            for head, (alpha, r2) in enumerate(row):
                x, y, shade = LEFT + CELL * i, top + CELL * head, round(255 * (1 - min(max(r2, 0), 1)))
                blank = alpha < retrofit.CLOSED_ENOUGH
                out.append(f'<rect x="{x}" y="{y}" width="{CELL - 1}" height="{CELL - 1}" stroke="#aaa" stroke-width=".5" '
                           f'fill="{"white" if blank else f"rgb({shade},{shade},{shade})"}"/>'
                           + (f'<path d="M{x + 7},{y + 7}l7,7m0,-7l-7,7" stroke="#aaa"/>' if blank else ""))
    return "\n".join(out) + "\n</svg>\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, type=pathlib.Path, help="GGUF file, or Hugging Face folder")
    parser.add_argument("--text", required=True, nargs=2, action="append", metavar=("FILE", "SHARE"), help="as retrofit.py has it")
    parser.add_argument("--rows", type=int, default=24, help="of 512 tokens, from all texts")
    parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path("."), help="folder for the texts' tokens")
    parser.add_argument("--svg", type=pathlib.Path, metavar="FILE", help="picture to write")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, tokenizer, template = base_model.load(args.base)
    texts = [(retrofit.encode(path, tokenizer, template, args.cache), float(share)) for path, share in args.text]
    rng = np.random.default_rng([args.seed, 1])
    batches = [retrofit.rows(texts, 4, 512, rng) for _ in range(args.rows // 4)]
    view = student.make_student(model, reference.Gate(source="none"), torch.bfloat16)
    rope = reference.rope_table(model.config, 512)
    results = {source: measure(model, view, batches, rope, source) for source in SOURCES}
    print("layer,head,alpha,r2_value,r2_input")
    for layer, pairs in enumerate(zip(*results.values())):
        for head, ((alpha, value), (_, given)) in enumerate(zip(*pairs)):
            print(f"{layer},{head},{alpha:.4f},{value:.3f},{given:.3f}")
    if args.svg:
        args.svg.write_text(svg(results))


if __name__ == "__main__":
    main()
