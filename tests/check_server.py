"""Checks what can be observed of vga-server from outside: a row each, as docs/server.md numbers them.

    python3 tests/check_server.py PROGRAMS_FOLDER MODEL [ROW...]

PROGRAMS_FOLDER holds vga-server; MODEL is models/vga-stories as a GGUF file. All rows take under two minutes with it
on two cores. Non-zero exit if a row fails.
"""
import pathlib
import sys
import time
import traceback

import server_rows_answers
import server_rows_operation
from server_under_test import ended, server, servers, where


def main(arguments):
    if len(arguments) < 2:
        sys.exit(__doc__)
    programs, where.model, *chosen = arguments
    where.program = pathlib.Path(programs) / "vga-server"
    everything = {**vars(server_rows_answers), **vars(server_rows_operation)}
    rows = {int(name.split("_")[1]): row for name, row in everything.items() if name.startswith("row_")}
    if unknown := [row for row in chosen if not row.isdigit() or int(row) not in rows]:
        sys.exit(f"check_server: no row {', '.join(unknown)}; there are 1 to {len(rows)}")
    failed, began = [], time.monotonic()
    numbers = [int(row) for row in chosen] or sorted(rows)
    for number in numbers:
        name = " ".join(rows[number].__name__.split("_")[2:])
        started_at = time.monotonic()
        try:
            rows[number]()
            print(f"{number:02} {name} ok ({time.monotonic() - started_at:.1f} s)", flush=True)
        except Exception as error:  # Each row is to be told of, whatever went wrong in it.
            failed.append(number)
            at = traceback.extract_tb(error.__traceback__)
            line = next((f.lineno for f in reversed(at) if f.name.startswith("row_")), 0)
            why = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
            print(f"{number:02} {name} FAILED: {why[:1200]} (line {line}, {time.monotonic() - started_at:.1f} s)", flush=True)
    for name in list(servers):
        if servers[name].process.poll() is not None:
            server(name)  # It takes down how the one before ended.
        servers[name].stop()
    for how in ended:
        print(f"a server ended by itself: {how}")
    print(f"{len(numbers) - len(failed)} of {len(numbers)} rows ok in {time.monotonic() - began:.0f} s")
    return 1 if failed or ended else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
