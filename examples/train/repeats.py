"""How much of a text says again what it has just said: a measure of the loops that small models fall into.

    python repeats.py chat.txt...

For each quarter of a file: the share of words that begin eight words which also began within the 300 words before.
"""
import argparse
import pathlib
import re

LENGTH, REACH = 8, 300


def repeats(words):
    """For each word whether the LENGTH words from it on stood within the last REACH."""
    last, found = {}, []
    for i in range(len(words)):
        run = tuple(words[i:i + LENGTH])
        found.append(i - last.get(run, -REACH) < REACH)
        last[run] = i
    return found


def before_loop(text, times=3, longest=40):
    """The text up to the second end of a phrase, of at most `longest` words, that it says `times` times running."""
    words = list(re.finditer(r"\S+", text))
    said = [word[0] for word in words]
    for i in range(len(said)):
        for n in range(1, min(longest, (len(said) - i) // times) + 1):
            if all(said[i + k] == said[i + n + k] for k in range(n * (times - 1))):
                return text[:words[i + 2 * n - 1].end()]
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    for path in parser.parse_args().files:
        words = path.read_text(encoding="utf-8", errors="replace").split()
        found, quarter = repeats(words), max(1, len(words) // 4)
        shares = "  ".join(f"{sum(found[i * quarter:(i + 1) * quarter]) / quarter:4.0%}" for i in range(4))
        print(f"{shares}  of {len(words)} words, {len(set(words))} different  {path.name}")


if __name__ == "__main__":
    main()
