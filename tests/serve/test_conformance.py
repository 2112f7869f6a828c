"""containerd's own suite for content stores, written in Go, passes through the socket."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest

from imgtool.disk import open_store

from .served import serving

SOURCE = Path(__file__).parent / "conformance"
GOPATH = Path("/usr/share/gocode")  # where Debian's golang-github-containerd-containerd-dev lies
SUITE = GOPATH / "src/github.com/containerd/containerd/content/testsuite"


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite as a program, built once; skips where Go or containerd's sources are missing."""
    if shutil.which("go") is None:
        pytest.skip("go is not installed")
    if not SUITE.is_dir():
        pytest.skip("containerd's sources (golang-github-containerd-containerd-dev) are not installed")
    program = tmp_path_factory.mktemp("conformance") / "suite"
    done = subprocess.run(
        ["go", "test", "-c", "-o", program, "."],
        cwd=SOURCE,
        env=os.environ | {"GO111MODULE": "off", "GOPATH": str(GOPATH), "GOFLAGS": ""},
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr
    return program


@pytest.mark.parametrize("policy", ["shared", "isolated"])
def test_the_suite_of_containerd_passes(suite: Path, tmp_path: Path, policy: str) -> None:
    """What its clients rely on, judged by its own authors, under both ways of sharing."""
    root = tmp_path / "store"
    root.mkdir(mode=0o700)
    (root / "imgtool.toml").write_text(f'sharing = "{policy}"\n[format]\nread = 1\nwrite = 1\n')
    with serving(root, partial(open_store, str(root)), tmp_path / "socket") as served:
        done = subprocess.run(
            [suite, "-test.v", "-test.timeout=5m"],
            cwd=tmp_path,
            env=os.environ | {"SOCKET": str(served.path), "POLICY": policy, "TMPDIR": str(tmp_path)},
            capture_output=True,
            text=True,
        )
    assert not done.returncode, done.stdout + done.stderr
    assert "--- PASS: TestContent/CrossNamespace" in done.stdout
    assert "--- SKIP" not in done.stdout
