"""Fixtures: a server in this process, over a store on disk, at a socket below `tmp_path`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from imgtool.disk import open_store
from tests.real.containerd import running

from .both import Both
from .client import Served
from .served import serving


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """Over a store that does not exist yet."""
    root = tmp_path / "store"
    with serving(root, partial(open_store, str(root)), tmp_path / "socket") as served:
        yield served


@pytest.fixture(scope="module")
def containerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A real one, with a store of its own."""
    work = tmp_path_factory.mktemp("containerd")
    with running(work):
        daemon = Served(work / "root", work / "socket")
        yield daemon
        daemon.channel.close()


@pytest.fixture
def both(server: Served, containerd: Served, request: pytest.FixtureRequest) -> Both:
    return Both(server, containerd, re.sub(r"\W+|_+", "-", request.node.name)[:70].strip("-"))
