"""Copying, and what is done behind it in another thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from imgtool.disk import copying
from imgtool.disk.copying import Behind
from imgtool.errors import ImgtoolError

DATA = os.urandom(100_000)

Copy = Callable[[int, int, int, int, Callable[[int], object]], int]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[int, int]:
    """A file with `DATA`, and one to copy it to."""
    (tmp_path / "source").write_bytes(DATA)
    flags = os.O_RDWR | os.O_CREAT
    return os.open(tmp_path / "source", flags), os.open(tmp_path / "target", flags, 0o600)


def test_calls_are_made_in_their_order_and_all_before_the_end() -> None:
    """A hash takes its pieces in order, and is asked for its digest last."""
    made: list[int] = []
    with Behind() as behind:
        for n in range(1000):
            behind.do(partial(made.append, n))
    assert made == list(range(1000))


def test_a_single_call_needs_no_thread() -> None:
    """Thousands of small files would start thousands of threads."""
    threads: list[threading.Thread] = []
    with Behind() as behind:
        behind.do(lambda: threads.append(threading.current_thread()))
    assert threads == [threading.current_thread()]


def fail() -> None:
    raise ImgtoolError("failed")


@pytest.mark.parametrize("before", [0, 1, 5])
def test_what_a_call_raises_comes_out_and_is_the_last(before: int) -> None:
    """Copying on would be for nothing."""
    made: list[str] = []

    def copy() -> None:
        with Behind() as behind:
            for _ in range(before):
                behind.do(lambda: None)
            behind.do(fail)
            behind.do(lambda: made.append("after"))
            while True:
                behind.do(lambda: None)

    with pytest.raises(ImgtoolError, match="failed"):
        copy()
    assert made == []


def test_a_failure_of_the_caller_is_not_hidden_by_one_behind_it() -> None:
    def copy() -> None:
        with Behind() as behind:
            behind.do(fail)
            raise KeyError

    with pytest.raises(KeyError):
        copy()


@pytest.mark.parametrize("error", [KeyboardInterrupt, KeyError])
def test_after_a_signal_nothing_more_is_begun(error: type[BaseException]) -> None:
    """Who ends a command does not want to wait until the rest is hashed; a writer that failed keeps
    what it has written.
    """
    made: list[int] = []
    go = threading.Event()

    def end() -> None:
        with Behind() as behind:
            behind.do(go.wait)
            for n in range(3):
                behind.do(partial(made.append, n))
            threading.Timer(0.1, go.set).start()
            raise error

    with pytest.raises(error):
        end()
    assert made == ([] if error is KeyboardInterrupt else [0, 1, 2])


@pytest.mark.parametrize("most", [0, 1, 50_000, 99_999, 100_000, 200_000])
@pytest.mark.parametrize("piece", [1 << 24, 7_000])
@pytest.mark.parametrize("copy", [copying.in_kernel, copying.by_hand])
def test_no_more_is_copied_than_is_asked_for(
    pair: tuple[int, int], monkeypatch: pytest.MonkeyPatch, copy: Copy, most: int, piece: int
) -> None:
    """To an offset, in pieces; the end of each is told."""
    monkeypatch.setattr(copying, "COPY", piece)
    monkeypatch.setattr(copying, "READ", piece // 2)
    source, target = pair
    os.write(target, b"before")
    ends: list[int] = []
    count = copy(source, target, 6, most, ends.append)
    assert count == min(len(DATA), most)
    assert os.pread(target, 200_000, 0) == b"before" + DATA[:count]
    assert ends == sorted(set(ends))
    assert (ends[-1] if ends else 6) == 6 + count
    assert len(ends) == -(-count // piece)


def test_without_a_limit_all_is_copied(pair: tuple[int, int]) -> None:
    assert copying.in_kernel(*pair, 0, None, lambda _: None) == len(DATA)
    assert os.pread(pair[1], 200_000, 0) == DATA


def test_what_is_read_behind_is_what_was_written(pair: tuple[int, int]) -> None:
    source, target = pair
    copying.in_kernel(source, target, 0, None, lambda _: None)
    found = [bytes(chunk) for chunk in copying.chunks(target, 10, 70_010, "it")]
    assert b"".join(found) == DATA[10:70_010]
    assert list(copying.chunks(target, 10, 10, "it")) == []


def test_a_copy_that_becomes_shorter_is_told(pair: tuple[int, int]) -> None:
    """Somebody has cut the file meanwhile."""
    with pytest.raises(ImgtoolError, match="it became shorter while it was written"):
        list(copying.chunks(pair[1], 0, 1, "it"))
