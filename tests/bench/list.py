"""What it takes to list many images, against the tools that can list as many."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from ingest import Containerd
from make_store import NAMESPACE
from measure import Case, Row, call, environment, imgtool, in_turn, rows

COUNT = 1000


def run(work: Path, size: int, rounds: int) -> list[Row]:
    """1,000 images of two platforms, 10 of them with the label that is asked for."""
    maker = Path(__file__).with_name("make_store.py")
    subprocess.run([sys.executable, maker, work, str(COUNT)], check=True, env=environment())
    store, layout = work / "store", work / "layout"
    names = store / "namespaces" / NAMESPACE / "images"
    daemon = Containerd(work / "containerd")
    missing = {tool: f"not measured: {tool} missing" for tool in ("ctr", "umoci") if not shutil.which(tool)}
    if "ctr" not in missing:
        daemon.restart()
        call("tar", "-C", layout, "-cf", work / "layout.tar", ".")
        call(*daemon.ctr(), "images", "import", "--no-unpack", "--all-platforms", work / "layout.tar")

    def ctr(*options: str) -> Case:
        words = ["images", "ls", *options]
        return Case(
            f"ctr {' '.join(words)}", lambda: call(*daemon.ctr(), *words), missing=missing.get("ctr", "")
        )

    cases = [
        Case("ls -f images", lambda: call("ls", "-f", names)),
        Case("umoci ls", lambda: call("umoci", "ls", "--layout", layout), missing=missing.get("umoci", "")),
        ctr(),
        ctr("-q"),
        Case("imgtool list", lambda: call(*imgtool(store, "list"))),
        Case("imgtool list -q", lambda: call(*imgtool(store, "list", "-q"))),
        Case("imgtool list labels.env==prod", lambda: call(*imgtool(store, "list", "labels.env==prod"))),
    ]
    try:
        in_turn(cases, rounds)
    finally:
        daemon.stop()
    return rows(
        cases,
        {
            ("imgtool list", "ctr images ls"): "< 1",
            ("imgtool list -q", "ctr images ls -q"): "",
            ("imgtool list -q", "umoci ls"): "",
            ("imgtool list -q", "ls -f images"): "",
        },
    )
