"""Measure whole processes side by side: cases in turn, round after round, and the median of their ratios.

One machine is never quiet: absolute times say little, the ratio of two commands that ran right after
each other says more.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median


def nothing() -> None:
    """Prepare nothing."""


@dataclass
class Case:
    """Something to time.

    Args:
        name: how the table calls it.
        run: what is timed; raises when it fails.
        prepare: what happens before each run, untimed.
        missing: why it cannot be measured, if it cannot.
    """

    name: str
    run: Callable[[], object]
    prepare: Callable[[], object] = nothing
    missing: str = ""
    seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Row:
    """A line of the table. `ratio` is to `to`; empty where there is none."""

    case: str
    median: str
    ratio: str = ""
    to: str = ""
    target: str = ""


def in_turn(cases: Sequence[Case], rounds: int, warm_up: int = 1) -> None:
    """Run every case once a round; the first `warm_up` rounds are not counted."""
    for number in range(-warm_up, rounds):
        for case in cases:
            if case.missing:
                continue
            case.prepare()
            start = time.perf_counter()
            case.run()
            if number >= 0:
                case.seconds.append(time.perf_counter() - start)


def rows(cases: Sequence[Case], targets: dict[tuple[str, str], str]) -> list[Row]:
    """A line for each case, and one for each ratio that has a target: (case, peer) -> target."""
    by_name = {case.name: case for case in cases}
    table = [Row(case.name, case.missing or seconds(median(case.seconds))) for case in cases]
    for (ours, theirs), target in targets.items():
        left, right = by_name[ours], by_name[theirs]
        missing = left.missing or right.missing
        ratio = missing or f"{median(a / b for a, b in zip(left.seconds, right.seconds, strict=True)):.2f}"
        table.append(Row(ours, "", ratio, theirs, target))
    return table


def seconds(value: float) -> str:
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"


def imgtool(root: Path, *args: str | Path) -> list[str]:
    """The command line of imgtool: the script that is installed beside this Python, else the module."""
    script = Path(sys.executable).parent / "imgtool"
    start = [str(script)] if script.exists() else [sys.executable, "-m", "imgtool"]
    return [*start, "--root", str(root), *map(str, args)]


def environment() -> dict[str, str]:
    """Ours, without what would make Python compile at every start."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("IMGTOOL_", "PYTHON"))}
    return env | {"PYTHONPATH": str(Path(__file__).parents[2])}


def call(*argv: str | Path, stdin: int = subprocess.DEVNULL) -> None:
    """Run a command to its end, its output dropped; a failure ends the benchmark with what it said."""
    done = subprocess.run(
        argv, stdin=stdin, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment()
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, argv))}: exit {done.returncode}: {done.stderr.decode()}")
