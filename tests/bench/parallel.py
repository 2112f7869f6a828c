"""Many processes writing into one place at once: how long it takes, and how much is lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from measure import Row, call, environment, imgtool, seconds

HELLO = Path(__file__).parents[2] / "fixtures" / "hello.oci"
TAG = "hello:1.0"
TAGS, INGESTS = 40, 20


def together(commands: Sequence[Sequence[str | Path]]) -> tuple[float, int]:
    """Start all commands, wait for all; returns the time and how many failed."""
    start = time.perf_counter()
    quiet = subprocess.DEVNULL
    running = [
        subprocess.Popen(argv, stdin=quiet, stdout=quiet, stderr=quiet, env=environment())
        for argv in commands
    ]
    failed = sum(process.wait() != 0 for process in running)
    return time.perf_counter() - start, failed


def row(
    what: str,
    rounds: int,
    prepare: Callable[[], object],
    commands: Sequence[Sequence[str | Path]],
    names: Callable[[], set[str]],
    target: str = "",
) -> Row:
    """Time `commands` together, each round on a fresh destination, and count what is missing after."""
    tool = str(commands[0][0])
    if shutil.which(tool) is None:
        return Row(what, f"not measured: {tool} missing", target=target)
    times, lost, failed = [], [], []
    for _ in range(rounds):
        prepare()
        before = names()
        took, failures = together(commands)
        times.append(took)
        failed.append(failures)
        lost.append(len(commands) - len(names() - before))
    text = f"{seconds(median(times))}, lost {spread(lost)}, failed {spread(failed)}"
    return Row(what, text, target=target)


def spread(counts: list[int]) -> str:
    return str(min(counts)) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def layout_names(layout: Path) -> set[str]:
    """The ref names of an OCI layout."""
    index = layout / "index.json"
    if not index.exists():
        return set()
    key = "org.opencontainers.image.ref.name"
    return {m.get("annotations", {}).get(key) for m in json.loads(index.read_bytes())["manifests"]}


def run(work: Path, size: int, rounds: int) -> list[Row]:
    """40 tags by imgtool and umoci, 20 images by imgtool and skopeo."""
    store, layout = work / "store", work / "layout"

    def fresh_store() -> None:
        shutil.rmtree(store, ignore_errors=True)
        call(*imgtool(store, "ingest", f"oci:{HELLO}", "--name", "base"))

    def store_names() -> set[str]:
        argv = imgtool(store, "list", "-q")
        return set(
            subprocess.run(argv, capture_output=True, check=True, env=environment()).stdout.decode().split()
        )

    def fresh_layout() -> None:
        shutil.rmtree(layout, ignore_errors=True)
        shutil.copytree(HELLO, layout)

    def names_of_layout() -> set[str]:
        return layout_names(layout)

    source = f"oci:{HELLO}"
    return [
        row(
            f"{TAGS} x imgtool tag",
            rounds,
            fresh_store,
            [imgtool(store, "tag", "base", f"t{n}") for n in range(TAGS)],
            store_names,
            "lost 0, failed 0",
        ),
        row(
            f"{TAGS} x umoci tag",
            rounds,
            fresh_layout,
            [["umoci", "tag", "--image", f"{layout}:{TAG}", f"t{n}"] for n in range(TAGS)],
            names_of_layout,
        ),
        row(
            f"{INGESTS} x imgtool ingest",
            rounds,
            fresh_store,
            [imgtool(store, "ingest", source, "--name", f"i{n}") for n in range(INGESTS)],
            store_names,
            "lost 0, failed 0",
        ),
        row(
            f"{INGESTS} x skopeo copy",
            rounds,
            fresh_layout,
            [
                ["skopeo", "--insecure-policy", "copy", "--quiet", f"{source}:{TAG}", f"oci:{layout}:i{n}"]
                for n in range(INGESTS)
            ],
            names_of_layout,
        ),
    ]
