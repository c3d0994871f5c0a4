"""How much of a text says again what it has just said: a measure of the loops that small models fall into.

    python repeats.py chat.txt...

For each quarter of a file: the share of words that begin eight words which also began within the 300 words before.
"""
import argparse
import pathlib

LENGTH, REACH = 8, 300


def repeats(words):
    """For each word whether the LENGTH words from it on stood within the last REACH."""
    last, found = {}, []
    for i in range(len(words)):
        run = tuple(words[i:i + LENGTH])
        found.append(i - last.get(run, -REACH) < REACH)
        last[run] = i
    return found


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
