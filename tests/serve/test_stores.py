"""A store that is used again by the next call: it must not show."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from imgtool import clock
from imgtool.disk import DiskStore, open_store
from imgtool.errors import FailedPrecondition
from imgtool.serve.stores import Stores


class Opened:
    """Stores, and how often one was really opened."""

    def __init__(self, root: Path) -> None:
        self.count = 0
        self.root = root
        self.stores = Stores(str(root), self._open)

    def _open(self) -> DiskStore:
        self.count += 1
        return open_store(str(self.root))


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    return Opened(tmp_path / "store")


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written just now counts as written long ago."""
    monkeypatch.setattr(clock, "wall", lambda: time.time_ns() + 10_000_000_000)


def configure(root: Path, text: str = "") -> None:
    root.mkdir(mode=0o700, exist_ok=True)
    (root / "imgtool.toml").write_text(f"{text}\n[format]\nread = 1\nwrite = 1\n")


@pytest.mark.usefixtures("later")
def test_the_next_call_opens_nothing_anew(opened: Opened) -> None:
    configure(opened.root)
    for _ in range(3):
        with opened.stores() as store:
            assert not list(store.namespaces.list())
    assert opened.count == 1


@pytest.mark.usefixtures("later")
def test_a_changed_setting_is_seen_by_the_next_call(opened: Opened) -> None:
    configure(opened.root)
    with opened.stores() as store:
        assert store.settings.sharing == "shared"
    configure(opened.root, 'sharing = "isolated"')
    with opened.stores() as store:
        assert store.settings.sharing == "isolated"
    (opened.root / "imgtool.toml").write_text("[format]\nread = 9\nwrite = 9\n")
    with pytest.raises(FailedPrecondition), opened.stores():
        pass


@pytest.mark.usefixtures("later")
def test_a_store_that_is_made_or_made_anew_is_seen_by_the_next_call(opened: Opened) -> None:
    for _ in range(2):
        with opened.stores() as store, store.content("default").writer("w") as writer:
            writer.write(b"a")
            writer.commit()
        with opened.stores() as store:
            assert len(list(store.content("default").list())) == 1
        shutil.rmtree(opened.root)
        with opened.stores() as store:
            assert not list(store.content("default").list())


@pytest.mark.usefixtures("later")
def test_two_calls_at_once_share_no_store(opened: Opened) -> None:
    """A store is one thread's."""
    configure(opened.root)
    with opened.stores() as one, opened.stores() as two:
        assert one is not two
    assert opened.count == 2


@pytest.mark.usefixtures("later")
def test_a_store_in_which_a_call_has_failed_is_not_used_again(opened: Opened) -> None:
    configure(opened.root)
    with pytest.raises(ZeroDivisionError), opened.stores():
        raise ZeroDivisionError
    with opened.stores():
        assert opened.count == 2


@pytest.mark.usefixtures("later")
def test_nothing_temporary_is_left_between_two_calls(opened: Opened) -> None:
    """gc tells by it who is at work."""
    configure(opened.root)
    with opened.stores() as store:
        store.content("default").stage(algorithm="sha256").close()
        assert list((opened.root / "tmp").iterdir())
    assert not list((opened.root / "tmp").iterdir())


def test_settings_as_young_as_the_clocks_step_are_read_each_time(opened: Opened) -> None:
    """They could change once more without looking different."""
    configure(opened.root)
    for _ in range(2):
        with opened.stores():
            pass
    assert opened.count == 2
