"""The threads of calls that wait: no more than there may be, and what has not begun can be taken back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from imgtool.serve.threads import Threads


class Held:
    """Makes jobs that hold their thread until they are let go."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.done: list[int] = []

    def job(self, number: int) -> Callable[[], None]:
        def job() -> None:
            self.begun.release()
            assert self.go_on.wait(30)
            self.done.append(number)

        return job


def test_no_more_run_than_there_may_be_and_the_rest_in_its_order() -> None:
    held, threads = Held(), Threads(2)
    for number in range(2):
        assert not threads.are_busy
        assert threads.add(held.job(number))
        assert held.begun.acquire(timeout=20)
    assert threads.are_busy
    last = threading.Event()
    order: list[int] = []
    for number in range(5):
        threads.add(partial(order.append, number))
    threads.add(last.set)
    assert order == []
    held.go_on.set()
    assert last.wait(20)
    assert sorted(order) == list(range(5))
    threads.stop()


def test_what_waits_can_be_taken_back_and_what_has_begun_cannot() -> None:
    held, threads = Held(), Threads(1)
    first, second = held.job(1), held.job(2)
    threads.add(first)
    assert held.begun.acquire(timeout=20)
    threads.add(second)
    assert threads.remove(second)
    assert not threads.remove(second)
    assert not threads.remove(first)
    ended = threading.Event()
    threads.add(ended.set)
    held.go_on.set()
    assert ended.wait(20)
    assert held.done == [1]
    threads.stop()


def test_after_the_end_what_has_begun_goes_on_and_nothing_else_begins() -> None:
    """And no thread is left."""
    held, threads = Held(), Threads(1)
    before = set(threading.enumerate())
    threads.add(held.job(1))
    assert held.begun.acquire(timeout=20)
    threads.add(held.job(2))
    threads.stop()
    assert not threads.add(held.job(3))
    (running,) = set(threading.enumerate()) - before
    held.go_on.set()
    running.join(20)
    assert not running.is_alive()
    assert held.done == [1]


def test_a_job_that_fails_costs_no_thread() -> None:
    """Else what waits after it would wait for ever."""

    def fail() -> None:
        assert go_on.wait(30)
        raise KeyError

    threads = Threads(1)
    go_on, ended = threading.Event(), threading.Event()
    threads.add(fail)
    threads.add(ended.set)
    go_on.set()
    assert ended.wait(20)
    threads.stop()
