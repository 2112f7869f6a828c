"""When gc runs in the server: containerd's rules, on a clock of our own; and the thread that keeps them."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imgtool.disk import open_store
from imgtool.errors import DataLoss, ImgtoolError, Unavailable
from imgtool.model import Settings
from imgtool.serve.contracts import Log
from imgtool.serve.scheduler import Schedule, Scheduler, for_store
from imgtool.serve.watch import Watch
from tests.conformance.things import add
from tests.fixture_runner import ROOT

# The schedule


class Clock:
    """A schedule, and a clock that stands still until it is told."""

    def __init__(self, schedule: Schedule, settings: Settings = Settings()) -> None:  # noqa: B008  # a value
        self.schedule = schedule
        self.schedule.settings = settings
        self.now = 1000.0
        schedule.start(self.now)

    @property
    def ahead(self) -> float | None:
        """Seconds until it is looked whether a run is wanted."""
        return None if self.schedule.next is None else round(self.schedule.next - self.now, 6)

    def wait(self) -> bool:
        """Until that moment; whether a run is wanted then. If not, it is put off."""
        assert self.schedule.next is not None
        self.now = max(self.now, self.schedule.next)
        if self.schedule.is_wanted():
            return True
        self.schedule.put_off(self.now)
        return False

    def run(
        self, seconds: float = 0.0, *, fails: bool = False, meanwhile: Callable[[], object] = bool
    ) -> None:
        reasons = self.schedule.begin()
        self.now += seconds
        meanwhile()
        if fails:
            self.schedule.failed(self.now, reasons)
        else:
            self.schedule.ended(self.now, seconds)

    def change(self, count: int = 1, *, deleted: bool = False) -> None:
        for _ in range(count):
            self.schedule.changed(self.now, deleted=deleted)


def started(settings: Settings = Settings(), **options: float) -> Clock:  # noqa: B008
    """One whose first run is over: it took 5 ms."""
    clock = Clock(Schedule(**options), settings)
    assert clock.wait()
    clock.run(0.005)
    return clock


def test_the_first_run_comes_100_ms_after_the_start_by_itself() -> None:
    """It also tells how long a run takes."""
    clock = Clock(Schedule())
    assert clock.ahead == 0.1
    assert clock.wait()


@pytest.mark.parametrize(
    ("seconds", "pause", "expected"),
    [
        (0.005, 0.02, 0.245),
        (0.0, 0.02, 0.245),  # no run counts as shorter than 5 ms
        (1.0, 0.02, 49.0),
        (0.1, 0.5, 0.1),
        (0.1, 0.9, 0.1),  # at most half of the time
        (0.1, 0.0, 1.0),
        (0.1, -1.0, 1.0),
    ],
)
def test_runs_take_no_more_than_their_share_of_the_time(
    seconds: float, pause: float, expected: float
) -> None:
    clock = Clock(Schedule(pause=pause))
    clock.wait()
    clock.run(seconds)
    assert clock.ahead == expected


def test_the_average_of_all_runs_counts() -> None:
    clock = started()
    clock.change(deleted=True)
    clock.wait()
    clock.run(0.015)
    assert clock.ahead == 0.49


def test_without_a_reason_it_is_put_off_again_and_again() -> None:
    clock = started()
    for _ in range(3):
        assert not clock.wait()
        assert clock.ahead == 0.245


def test_a_deletion_is_a_reason_at_the_next_time() -> None:
    """Not at once: then many deletions would be as many runs."""
    clock = started()
    clock.change(deleted=True)
    assert clock.ahead == 0.245
    assert clock.wait()


def test_a_hundred_changes_are_a_reason() -> None:
    clock = started()
    clock.change(99)
    assert not clock.wait()
    clock.change()
    assert clock.ahead == 0.245
    assert clock.wait()


def test_a_run_begins_the_count_anew() -> None:
    clock = started()
    clock.change(99, deleted=True)
    clock.wait()
    clock.run()
    clock.change(99)
    assert not clock.wait()


def test_a_threshold_of_changes_that_is_0_makes_none_a_reason() -> None:
    clock = started(Settings(mutation_threshold=0))
    clock.change(1000)
    assert not clock.wait()


def test_a_threshold_of_deletions_has_the_run_at_once() -> None:
    clock = started(Settings(deletion_threshold=3))
    clock.change(2, deleted=True)
    assert clock.ahead == 0.245
    clock.change(deleted=True)
    assert clock.ahead == 0
    assert clock.wait()


def test_fewer_deletions_than_the_threshold_are_a_reason_all_the_same() -> None:
    """As in containerd: at the next time any deletion is."""
    clock = started(Settings(deletion_threshold=3))
    clock.change(deleted=True)
    assert clock.wait()


def test_who_waits_gets_a_run_at_once() -> None:
    clock = started()
    clock.schedule.trigger(clock.now)
    assert clock.ahead == 0
    assert clock.wait()


def test_a_delay_gathers_who_comes_soon_after() -> None:
    clock = started(delay=0.1)
    clock.schedule.trigger(clock.now)
    clock.now += 0.06
    clock.schedule.trigger(clock.now)
    assert clock.ahead == 0.04


def test_a_delay_does_not_put_off_what_comes_sooner() -> None:
    clock = started(delay=60)
    clock.schedule.trigger(clock.now)
    assert clock.ahead == 0.245


@pytest.mark.parametrize(
    ("settings", "changes", "deleted", "expected"),
    [
        (Settings(), 1, False, None),
        (Settings(), 1, True, 0),
        (Settings(), 100, False, 0),
        (Settings(mutation_threshold=0), 1000, False, None),
    ],
)
def test_without_a_first_run_the_first_reason_counts(
    settings: Settings, changes: int, deleted: bool, expected: float | None
) -> None:
    """A startup delay of 0: nothing is planned until something happens."""
    clock = Clock(Schedule(startup=0), settings)
    clock.change(changes, deleted=deleted)
    assert clock.ahead == expected


def test_what_happens_while_gc_runs_is_a_reason_for_the_next() -> None:
    """It may have looked there already."""
    clock = started()
    clock.run(0.005, meanwhile=lambda: clock.change(deleted=True))
    assert clock.ahead == 0.245
    assert clock.wait()


def test_who_comes_while_gc_runs_gets_another_run_at_once() -> None:
    clock = started()
    clock.run(1.0, meanwhile=lambda: clock.schedule.trigger(clock.now))
    assert clock.ahead == 0


def test_a_run_that_fails_is_repeated_a_second_later_each_time() -> None:
    """It reads the whole store, and what is wrong with that stays wrong."""
    clock = started()
    clock.change(deleted=True)
    assert clock.wait()
    delays = []
    for _ in range(3):
        clock.run(fails=True)
        delays.append(clock.ahead)
        assert clock.wait()
    assert delays == [1.245, 2.245, 3.245]
    clock.run(0.005)
    assert clock.ahead == 0.245


def test_what_was_changed_before_a_run_that_fails_stays_a_reason() -> None:
    clock = started()
    clock.change(100)
    clock.wait()
    clock.run(fails=True)
    assert clock.wait()


def test_a_first_run_that_fails_is_repeated() -> None:
    clock = Clock(Schedule())
    clock.wait()
    clock.run(fails=True)
    assert clock.ahead == 2
    assert clock.wait()


def test_who_comes_while_gc_fails_gets_another_run_at_once() -> None:
    clock = started()
    clock.run(fails=True, meanwhile=lambda: clock.schedule.trigger(clock.now))
    assert clock.ahead == 0


# The thread


class Runs:
    """A collector that tells how often it ran, and waits or fails where a test wants it to."""

    def __init__(self) -> None:
        self.count = 0
        self.error: Exception | None = None
        self.may_end = threading.Event()
        self.may_end.set()
        self.warned: list[str] = []
        self.log = Log(lambda text: None, lambda text: None, self.warned.append)

    def __call__(self) -> None:
        self.count += 1
        if self.error is not None:
            raise self.error
        assert self.may_end.wait(10)

    def wait_for(self, count: int) -> None:
        wait_until(lambda: self.count >= count)


@contextmanager
def running(
    runs: Runs, startup: float = 0.01, is_due: Callable[[], bool] = lambda: True
) -> Iterator[Scheduler]:
    scheduler = Scheduler(runs, runs.log, is_due=is_due, schedule=Schedule(startup=startup))
    scheduler.start()
    try:
        yield scheduler
    finally:
        runs.may_end.set()
        scheduler.stop()


def test_it_runs_at_the_start_and_after_a_deletion() -> None:
    runs = Runs()
    with running(runs) as scheduler:
        runs.wait_for(1)
        scheduler.changed(deleted=True)
        runs.wait_for(2)


def test_it_does_not_run_without_a_reason() -> None:
    runs = Runs()
    with running(runs) as scheduler:
        runs.wait_for(1)
        scheduler.changed(deleted=False)
        time.sleep(0.6)
    assert runs.count == 1


def test_who_waits_is_told_after_a_whole_run() -> None:
    runs = Runs()
    with running(runs, startup=0) as scheduler:
        runs.may_end.clear()
        waiting = threading.Thread(target=scheduler.collect)
        waiting.start()
        runs.wait_for(1)
        assert waiting.is_alive()
        runs.may_end.set()
        waiting.join(10)
        assert not waiting.is_alive()


def test_who_comes_while_gc_runs_waits_for_the_next_run() -> None:
    """That one may have passed by what the client deleted before it asked."""
    runs = Runs()
    with running(runs, startup=0) as scheduler:
        runs.may_end.clear()
        first = threading.Thread(target=scheduler.collect)
        first.start()
        runs.wait_for(1)
        seen: list[int] = []

        def client() -> None:
            scheduler.collect()
            seen.append(runs.count)

        second = threading.Thread(target=client)
        second.start()
        time.sleep(0.05)
        runs.may_end.set()
        first.join(10)
        second.join(10)
    assert seen == [2]


def test_many_who_wait_share_a_run() -> None:
    runs = Runs()
    with running(runs, startup=0) as scheduler:
        runs.may_end.clear()
        clients = [threading.Thread(target=scheduler.collect) for _ in range(10)]
        for client in clients:
            client.start()
        time.sleep(0.1)
        runs.may_end.set()
        for client in clients:
            client.join(10)
        assert not any(client.is_alive() for client in clients)
    assert runs.count <= 2


@pytest.mark.parametrize(
    ("error", "raised"), [(DataLoss("rotten", hint="fsck"), DataLoss), (ValueError("oops"), ImgtoolError)]
)
def test_who_waits_for_a_run_that_fails_is_told_why(error: Exception, raised: type[ImgtoolError]) -> None:
    runs = Runs()
    runs.error = error
    with running(runs, startup=0) as scheduler:
        with pytest.raises(raised, match="gc failed: ") as caught:
            scheduler.collect()
        assert caught.value.hint == getattr(error, "hint", None)
        runs.error = None
        scheduler.collect()
    assert runs.warned == [caught.value.message]


def test_settings_that_cannot_be_read_are_a_failure_and_not_the_end() -> None:
    """Somebody is editing imgtool.toml."""
    runs, broken = Runs(), threading.Event()

    def settings() -> Settings:
        if broken.is_set():
            raise DataLoss("imgtool.toml")
        return Settings()

    scheduler = Scheduler(runs, runs.log, settings=settings, schedule=Schedule(startup=0))
    scheduler.start()
    broken.set()
    with pytest.raises(DataLoss):
        scheduler.collect()
    broken.clear()
    scheduler.collect()
    scheduler.stop()


def test_after_the_end_nobody_waits() -> None:
    runs = Runs()
    with running(runs) as scheduler:
        runs.wait_for(1)
        runs.may_end.clear()
        scheduler.changed(deleted=True)
        runs.wait_for(2)
        failures: list[Exception] = []

        def client() -> None:
            try:
                scheduler.collect()
            except Unavailable as error:
                failures.append(error)

        waiting = threading.Thread(target=client)
        waiting.start()
        time.sleep(0.05)
        stopping = threading.Thread(target=scheduler.stop)
        stopping.start()
        time.sleep(0.05)
        assert stopping.is_alive()  # a run is not broken off
        runs.may_end.set()
        stopping.join(10)
        waiting.join(10)
        assert (len(failures), runs.count) == (1, 2)
        with pytest.raises(Unavailable):
            scheduler.collect()


def test_a_run_is_left_out_if_another_process_has_collected() -> None:
    """The log says so."""
    runs, asked = Runs(), threading.Event()

    def is_due() -> bool:
        asked.set()
        return False

    with running(runs, is_due=is_due) as scheduler:
        runs.wait_for(1)
        scheduler.changed(deleted=True)
        assert asked.wait(10)
        time.sleep(0.3)
        assert runs.count == 1
        scheduler.collect()
    assert runs.count == 2


def test_what_another_process_deletes_is_collected(tmp_path: Path) -> None:
    """The store, the watch and the scheduler together: content that a command lets go of is gone soon."""
    root = str(tmp_path / "store")
    log = Log(lambda text: None, lambda text: None, lambda text: None)

    with open_store(root) as store:
        source = tmp_path / "f"
        source.write_text("hi")
        imgtool(root, "ingest", str(source), "-t", "a")
        watch = Watch(lambda: open_store(root), log, poll=0.01)
        scheduler = for_store(lambda: open_store(root), log)
        watch.listen(scheduler.happened)
        watch.start()
        scheduler.start()
        try:
            scheduler.collect()
            assert len(list(store.objects())) == 1
            imgtool(root, "delete", "a")
            wait_until(lambda: not list(store.objects()))
            add(store, b"held by nothing")
            scheduler.collect()
            assert list(store.objects()) == []
        finally:
            watch.stop()
            scheduler.stop()


def imgtool(root: str, *words: str) -> None:
    argv = [sys.executable, "-m", "imgtool", "--root", root, *words]
    subprocess.run(argv, cwd=ROOT, check=True, capture_output=True)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
