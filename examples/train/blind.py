"""Compares the answers of two models blind: writes them side by side in random order, then counts what a reader preferred.

    python blind.py ask --servers http://127.0.0.1:8080 http://127.0.0.1:8081 --out answers
    (read answers/pairs.txt and write answers/ratings.txt: a line for each pair, "1", "2" or "=")
    python blind.py count answers

Both servers are asked every line of chat-prompts.txt, greedily. answers/key.json says which answer is whose.
"""
import argparse
import concurrent.futures
import json
import math
import pathlib
import random

from converse import answer
from repeats import before_loop


def ask(servers, prompts, tokens, seed, folder):
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        def answers_of(server):
            return list(pool.map(lambda prompt: answer(server, [{"role": "user", "content": prompt}], 0, 0.0, tokens), prompts))
        answers = [answers_of(server) for server in servers]
    for server, own in zip(servers, answers):
        print(f"{server}: {sum(before_loop(text) != text for text in own)} of {len(own)} answers fall into a loop")
    rng = random.Random(seed)
    order = [rng.sample((0, 1), 2) for _ in prompts]
    text = ""
    for i, (prompt, places) in enumerate(zip(prompts, order)):
        text += f"######## {i + 1}. {prompt}\n"
        text += "".join(f"---- answer {n + 1}\n{answers[which][i].strip()}\n" for n, which in enumerate(places)) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pairs.txt").write_text(text)
    (folder / "key.json").write_text(json.dumps({"servers": servers, "order": order}) + "\n")


def sign_test(a, b):
    """The chance of a split at least as uneven if each of the a + b votes were a toss of a coin."""
    n, least = a + b, min(a, b)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(least + 1)) / 2 ** n)


def count(folder):
    key = json.loads((folder / "key.json").read_text())
    ratings = (folder / "ratings.txt").read_text().split()
    if len(ratings) != len(key["order"]) or not set(ratings) <= {"1", "2", "="}:
        raise SystemExit(f"{folder / 'ratings.txt'}: wanted {len(key['order'])} of 1, 2 and =, found {len(ratings)} words")
    votes = [places[int(rating) - 1] for rating, places in zip(ratings, key["order"]) if rating != "="]
    first, second = votes.count(0), votes.count(1)
    print(f"{key['servers'][0]} preferred {first} times, {key['servers'][1]} {second} times, no difference "
          f"{len(ratings) - len(votes)} times; sign test p = {sign_test(first, second):.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    asking = commands.add_parser("ask", help="write pairs.txt and key.json")
    asking.add_argument("--servers", required=True, nargs=2, metavar="URL")
    asking.add_argument("--prompts", type=pathlib.Path, default=pathlib.Path(__file__).with_name("chat-prompts.txt"))
    asking.add_argument("--tokens", type=int, default=300, help="of an answer, at most")
    asking.add_argument("--seed", type=int, default=1, help="of the order")
    asking.add_argument("--out", required=True, type=pathlib.Path, metavar="FOLDER")
    commands.add_parser("count", help="count ratings.txt").add_argument("folder", type=pathlib.Path)
    args = parser.parse_args()
    if args.command == "ask":
        ask(args.servers, args.prompts.read_text().splitlines(), args.tokens, args.seed, args.out)
    else:
        count(args.folder)


if __name__ == "__main__":
    main()
