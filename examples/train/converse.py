"""Lets a chat model write conversations for retrofit.py to learn from: answers to prompts drawn from prompts.txt.

    python converse.py -m model.gguf --out conversations.jsonl --conversations 500

Runs vga-chat, a conversation after the other. Each line of the file is one: [{"role": ..., "content": ...}, ...]. Prompts
are a function of the seed and of the conversation's number, so that a run can be divided: --first 500 goes on behind it.
"""
import argparse
import json
import pathlib
import random
import re
import subprocess
import tempfile


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


def prompts(lists, seed, number, turns=(1, 6)):
    """The user's messages of one conversation."""
    rng = random.Random(f"{seed}/{number}")
    kinds = ["open"] + ["next" if rng.random() < 0.8 else "open" for _ in range(rng.randint(*turns) - 1)]
    return [fill(rng.choice(lists[kind]), lists, rng) for kind in kinds]


def converse(chat, model, messages, seed, temperature, tokens):
    """One conversation by vga-chat, which saves it as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "conversation.json"
        lines = "\n".join([*messages, f"/save {file}", "/exit", ""])
        subprocess.run([chat, "-m", model, "--temp", str(temperature), "--seed", str(seed), "-n", str(tokens)],
                       input=lines, text=True, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        saved = json.loads(file.read_text())
    conversation = [{"role": "system", "content": saved["system"]}] if saved.get("system") else []
    for turn in saved["turns"]:
        conversation += [{"role": "user", "content": turn["user"]}, {"role": "assistant", "content": turn["answer"]}]
    return conversation


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", required=True, help="GGUF file of a chat model")
    parser.add_argument("--chat", default="build/release/bin/vga-chat", help="the program")
    parser.add_argument("--prompts", type=pathlib.Path, default=pathlib.Path(__file__).with_name("prompts.txt"))
    parser.add_argument("--out", required=True, type=pathlib.Path, help="JSON lines, appended to")
    parser.add_argument("--conversations", type=int, default=500)
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--tokens", type=int, default=400, help="of an answer, at most")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    lists = read_lists(args.prompts)
    with open(args.out, "a") as out:
        for number in range(args.first, args.first + args.conversations):
            messages = prompts(lists, args.seed, number)
            conversation = converse(args.chat, args.model, messages, number, args.temperature, args.tokens)
            out.write(json.dumps(conversation, ensure_ascii=False) + "\n")
            out.flush()
            print(f"{number + 1 - args.first}/{args.conversations}: {messages[0][:90]}", flush=True)


if __name__ == "__main__":
    main()
