"""Print what imgtool costs beside what others cost: `python tests/bench/run.py [NAME…]`.

Never asserts on time, and is no test: it prints figures, ratios and their targets. Without names it runs
all: startup, list, ingest, archives, export, memory, parallel, garbage (which is gc), serve. `--size` and
`--rounds` make it shorter, `--dir` says on which disk.
"""

from __future__ import annotations

import argparse
import importlib
import os
import tempfile
from dataclasses import astuple
from pathlib import Path

from measure import Row

NAMES = ("startup", "list", "ingest", "archives", "export", "memory", "parallel", "garbage", "serve")
HEADER = Row("command", "median", "ratio", "to", "target")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)} [all]")
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="of the large file [1024]")
    parser.add_argument("--rounds", type=int, default=5, help="how often each case runs [5]")
    parser.add_argument("--dir", type=Path, default=cache(), help="where the files go [the cache directory]")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    options.dir.mkdir(parents=True, exist_ok=True)
    for name in options.names or NAMES:
        with tempfile.TemporaryDirectory(dir=options.dir, prefix=f"{name}.") as work:
            table = importlib.import_module(name).run(Path(work), options.size << 20, options.rounds)
        show(name, table)


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imgtool-bench"


def show(name: str, table: list[Row]) -> None:
    """Print a table with as much room as each column needs."""
    lines = [astuple(HEADER), *map(astuple, table)]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    print(f"\n{name}")
    for line in lines:
        print("  " + "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip(), flush=True)


if __name__ == "__main__":
    main()
