"""Lets a chat model write conversations for retrofit.py to learn from: answers to prompts drawn from prompts.txt.

    vga-server -m model.gguf --parallel 16 --context 4096
    python converse.py --out conversations.jsonl --conversations 500

Asks a server that speaks OpenAI's API, many conversations at once: a step of the server reads the weights once for all of
them. Each line of the file is one: [{"role": ..., "content": ...}, ...]. Prompts are a function of the seed and of the
conversation's number, so that a run can be divided: --first 500 goes on behind it.
"""
import argparse
import concurrent.futures
import json
import pathlib
import random
import re
import urllib.request

from repeats import before_loop


def read_lists(path):
    """{"thing": [...], "open": [...], ...}: the lists of prompts.txt."""
    lists, name = {}, None
    for line in path.read_text().splitlines():
        if line.startswith("[") and line.endswith("]"):
            name = line[1:-1]
            lists[name] = []
        elif line and not line.startswith("#"):
            lists[name].append(line)
    return lists


def fill(text, lists, rng):
    """The text with each {name} replaced by a line of that list."""
    return re.sub(r"\{(\w+)\}", lambda match: rng.choice(lists[match[1]]), text)


def prompts(lists, seed, number, turns):
    """The user's messages of one conversation."""
    rng = random.Random(f"{seed}/{number}")
    kinds = ["open"] + ["next" if rng.random() < 0.8 else "open" for _ in range(rng.randint(1, turns) - 1)]
    return [fill(rng.choice(lists[kind]), lists, rng) for kind in kinds]


def answer(server, conversation, seed, temperature, tokens):
    body = {"messages": conversation, "seed": seed, "temperature": temperature, "max_tokens": tokens}
    request = urllib.request.Request(f"{server}/v1/chat/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)["choices"][0]["message"]["content"]


def converse(server, messages, seed, temperature, tokens):
    """One conversation: each message is sent with all that was said before. Where an answer falls into a loop, it ends."""
    conversation = []
    for message in messages:
        conversation.append({"role": "user", "content": message})
        text = answer(server, conversation, seed, temperature, tokens)
        conversation.append({"role": "assistant", "content": before_loop(text)})
        if conversation[-1]["content"] != text:
            break
    return conversation


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="http://127.0.0.1:8080", help="its address")
    parser.add_argument("--parallel", type=int, default=16, help="conversations at once")
    parser.add_argument("--prompts", type=pathlib.Path, default=pathlib.Path(__file__).with_name("prompts.txt"))
    parser.add_argument("--out", required=True, type=pathlib.Path, help="JSON lines, appended to")
    parser.add_argument("--conversations", type=int, default=500)
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--turns", type=int, default=4, help="of a conversation, at most")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--tokens", type=int, default=400, help="of an answer, at most")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    lists = read_lists(args.prompts)

    def talk(number):
        messages = prompts(lists, args.seed, number, args.turns)
        return converse(args.server, messages, number, args.temperature, args.tokens)

    with open(args.out, "a") as out, concurrent.futures.ThreadPoolExecutor(args.parallel) as pool:
        numbers = range(args.first, args.first + args.conversations)
        for number, conversation in zip(numbers, pool.map(talk, numbers)):
            out.write(json.dumps(conversation, ensure_ascii=False) + "\n")
            out.flush()
            print(f"{number + 1 - args.first}/{args.conversations}: {conversation[0]['content'][:90]}", flush=True)


if __name__ == "__main__":
    main()
