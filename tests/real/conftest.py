"""Fixtures: a fresh store for each test, and real images built once."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import images
from .images import Layout
from .process import Imgtool


@pytest.fixture
def store(tmp_path: Path) -> Imgtool:
    """imgtool over a store that does not exist yet."""
    return Imgtool(tmp_path / "store")


@pytest.fixture(scope="session")
def big() -> Layout:
    return images.big()


@pytest.fixture(scope="session")
def multi() -> Layout:
    return images.multi()


@pytest.fixture(scope="session")
def hello() -> Path:
    """The small image that is kept beside the code."""
    return Path(__file__).parents[2] / "fixtures" / "hello.oci"
