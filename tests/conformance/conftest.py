"""Every suite here runs on each kind of store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest

from imgtool.disk import DiskStore, open_store
from imgtool.memory import MemoryStore
from imgtool.model import Settings
from imgtool.stores import ContentStore, ImageStore, LeaseStore, Store

from .things import NS


@pytest.fixture(params=["memory", "disk"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Store]]:
    """Makes new, empty stores of one kind; with another policy of sharing where one is given."""
    numbers = count(1)
    with ExitStack() as stack:

        def make(sharing: str = "shared") -> Store:
            if request.param == "memory":
                return MemoryStore(Settings(sharing=sharing))
            root = tmp_path / f"store-{next(numbers)}"
            if sharing != "shared":
                root.mkdir(mode=0o700)
                form = "[format]\nread = 1\nwrite = 1\n"
                (root / "imgtool.toml").write_text(f'sharing = "{sharing}"\n{form}')
            return stack.enter_context(open_store(str(root)))

        yield make


@pytest.fixture
def store(make_store: Callable[[], Store]) -> Store:
    """A new, empty store."""
    return make_store()


@pytest.fixture
def elsewhere(store: Store) -> Iterator[Store]:
    """The same store, as another process has it."""
    if isinstance(store, DiskStore):
        with open_store(store.engine.layout.root) as again:
            yield again
    else:
        yield store


@pytest.fixture
def images(store: Store) -> ImageStore:
    return store.images(NS)


@pytest.fixture
def content(store: Store) -> ContentStore:
    return store.content(NS)


@pytest.fixture
def leases(store: Store) -> LeaseStore:
    return store.leases(NS)
