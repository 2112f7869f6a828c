"""Fixtures: a server in this process, over a store on disk, at a socket below `tmp_path`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from imgtool.disk import open_store

from .client import Served
from .served import serving


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """Over a store that does not exist yet."""
    root = tmp_path / "store"
    with serving(root, partial(open_store, str(root)), tmp_path / "socket") as served:
        yield served
