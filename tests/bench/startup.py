"""What a command costs before it does anything."""

from __future__ import annotations

import sys
from pathlib import Path

from measure import Case, Row, call, imgtool, in_turn, rows


def run(work: Path, size: int, rounds: int) -> list[Row]:
    """`imgtool list` of a store that does not exist, against importing its command-line library."""
    store = work / "empty"
    cases = [
        Case("python -c 'import typer'", lambda: call(sys.executable, "-c", "import typer")),
        Case("imgtool list, empty store", lambda: call(*imgtool(store, "list"))),
        Case("python -I -S -c pass", lambda: call(sys.executable, "-I", "-S", "-c", "pass")),
    ]
    in_turn(cases, rounds * 5, warm_up=2)
    return rows(cases, {("imgtool list, empty store", "python -c 'import typer'"): "<= 1.2"})
