"""What a gc takes, against `umoci gc` of the same content and against `find` of the same files.

What a command costs before it does anything is measured beside, and subtracted on both sides.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from make_store import Shape, fill, make
from measure import Case, Row, call, environment, imgtool, in_turn, rows, seconds

from imgtool.disk import open_store

LARGE = Shape(10, dead=10, layers=5, size=19 << 20)  # 954 MB
MANY = Shape(1_000, dead=10, layers=5)
HUGE = Shape(10_000, layers=3)  # 50,000 objects
SOAK = Path(__file__).parents[1] / "real" / "test_gc_soak.py"


def run(work: Path, size: int, rounds: int) -> list[Row]:
    """Each run of umoci and of imgtool starts on a fresh copy of the same content."""
    missing = "" if shutil.which("umoci") else "not measured: umoci missing"
    nothing = work / "nothing"
    starts = [
        Case("umoci --version", lambda: call("umoci", "--version"), missing=missing),
        Case("imgtool list, empty store", lambda: call(*imgtool(nothing, "list"))),
        Case("imgtool gc --auto, nothing due", lambda: call(*imgtool(nothing, "gc", "--auto"))),
        Case("imgtool gc, empty store", lambda: call(*imgtool(nothing, "gc"))),
        Case("find, empty directory", lambda: call("find", work / "find", "-type", "f")),
    ]
    (work / "find").mkdir()
    in_turn(starts, rounds * 2)
    umoci, _, _, ours_typer, find = (median(c.seconds) if c.seconds else 0.0 for c in starts)
    table = rows(starts, {("imgtool gc --auto, nothing due", "imgtool list, empty store"): "about 1"})
    for what, shape, target in (("954 MB", LARGE, "<= 0.1"), ("1,000 images", MANY, "<= 0.5")):
        make(work / what, shape)
        table += beside_umoci(what, work / what, shape, rounds, (umoci, ours_typer), target, missing)
        shutil.rmtree(work / what)
    make(work / "huge", HUGE)
    table += beside_find(work / "huge" / "store", rounds, (find, ours_typer))
    return [*table, soak()]


def beside_umoci(
    what: str, at: Path, shape: Shape, rounds: int, start: tuple[float, float], target: str, missing: str
) -> list[Row]:
    """One image of ten is dead. `cache/` is cold in a copy; warm is what an earlier gc, which has removed as
    much, left in the same place.
    """
    store, layout, dying = at / "copy", at / "layout-copy", shape.dying()
    dead = shape._replace(first=shape.count, count=len(dying), dead=1)

    def cold() -> None:
        copied(at / "store", store)
        time.sleep(2.1)  # so old must directories be for gc to know that they have not changed
        call(*imgtool(store, "delete", *dying))

    def warm() -> None:
        copied(at / "store", store)
        with open_store(str(store)) as opened:
            fill(opened, dead)
        time.sleep(2.1)
        call(*imgtool(store, "delete", *dead.dying()))
        call(*imgtool(store, "gc"))
        call(*imgtool(store, "delete", *dying))

    theirs = Case(
        f"umoci gc, {what}",
        lambda: call("umoci", "gc", "--layout", layout),
        lambda: copied(at / "layout", layout),
        missing,
    )
    first = Case(f"imgtool gc, {what}, cold cache/", lambda: call(*imgtool(store, "gc")), cold)
    again = Case(f"imgtool gc, {what}, warm cache/", lambda: call(*imgtool(store, "gc")), warm)
    in_turn([theirs, first, again], rounds)
    table = [
        *without_start(first, theirs, (start[1], start[0]), target),
        *without_start(again, theirs, (start[1], start[0]), target)[1:],
    ]
    for prepare in (cold, warm):
        prepare()
        held, whole = exclusive(imgtool(store, "gc"), store)
        case = f"imgtool gc, {what}, {prepare.__name__}: lock held"
        table.append(Row(case, seconds(held), f"{held / whole:.2f}", "the run", "< 0.2"))
    return table


def beside_find(store: Path, rounds: int, start: tuple[float, float]) -> list[Row]:
    """Nothing is dead: what remains is looking."""

    def cold() -> None:
        shutil.rmtree(store / "cache", ignore_errors=True)

    find = Case("find ROOT -type f", lambda: call("find", store, "-type", "f"))
    first = Case("imgtool gc, 10,000 images, cold cache/", lambda: call(*imgtool(store, "gc")), cold)
    again = Case("imgtool gc, 10,000 images, warm cache/", lambda: call(*imgtool(store, "gc")))
    in_turn([find, first, again], rounds)
    return [
        *without_start(first, find, (start[1], start[0]), "<= 12"),
        *without_start(again, find, (start[1], start[0]), "<= 5")[1:],
    ]


def without_start(ours: Case, theirs: Case, start: tuple[float, float], target: str) -> list[Row]:
    """Both and their ratio, each without what its start takes."""
    table = [Row(case.name, case.missing or seconds(median(case.seconds))) for case in (theirs, ours)]
    ratio = theirs.missing
    if not ratio:
        pairs = zip(ours.seconds, theirs.seconds, strict=True)
        ratio = f"{median(max(a - start[0], 0) / max(b - start[1], 1e-4) for a, b in pairs):.2f}"
    return [*table, Row(ours.name, "", ratio, f"{theirs.name}, without start", target)]


def copied(source: Path, target: Path) -> None:
    """A fresh copy, with files of its own: removing the last name of one takes ten times as long."""
    shutil.rmtree(target, ignore_errors=True)
    call("cp", "-a", source, target)
    call("sync")


def exclusive(argv: list[str], store: Path) -> tuple[float, float]:
    """For how long a command has the store's lock alone, and how long it runs, in seconds; by what the
    system tells of the lock, again and again.
    """
    lock = store / "locks" / "store"
    lock.touch(mode=0o600)
    inode = f":{lock.stat().st_ino} "
    begin = last = time.perf_counter()
    held = 0.0
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, env=environment()) as process:
        while process.poll() is None:
            now = time.perf_counter()
            locks = Path("/proc/locks").read_text().splitlines()
            if any(inode in line and " WRITE " in line and "->" not in line for line in locks):
                held += now - last
            last = now
            time.sleep(0.0005)
    if process.returncode:
        sys.exit(f"{' '.join(argv)}: exit {process.returncode}")
    return held, last - begin


def soak() -> Row:
    """gc beside everything that changes what is kept, for a minute."""
    argv = [sys.executable, "-m", "pytest", "-q", "-x", str(SOAK)]
    env = environment() | {"IMGTOOL_SOAK_SECONDS": "60"}
    done = subprocess.run(argv, cwd=SOAK.parents[2], env=env, capture_output=True, text=True)
    said = done.stdout.strip().splitlines()
    return Row(
        "soak of 60 s", said[-1] if said else done.stderr[-200:], target="loses nothing, revives nothing"
    )
