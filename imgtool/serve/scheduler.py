"""When gc runs in the server: containerd's `plugins/gc/scheduler.go`, its rules and defaults.

The first run comes soon after the start. After each run the next may come when so much time has passed
that gc takes no more than its share, and comes then only if something was deleted, enough was changed,
or somebody waits for it. Who waits gets a run at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from imgtool.disk.follow import Operation
from imgtool.disk.gc_log import deletes
from imgtool.errors import ImgtoolError, Unavailable
from imgtool.model import Settings
from imgtool.ops import auto, gc
from imgtool.serve.contracts import Log, Open

_PAUSE_MAX = 0.5
_RUN_MIN = 0.005


class Reasons(NamedTuple):
    """Why a run is made."""

    deletions: int
    changes: int
    is_asked_for: bool  # by somebody who waits, or because it is the first


class Schedule:
    """When the next run is, and whether it is wanted then. Knows no thread; times are seconds of any
    clock that only goes forward.

    Args:
        pause: the share of the time that runs may take, at most 0.5; 0: one a second.
        delay: seconds from a reason to run at once until the run.
        startup: seconds from the start until the first run; 0: none without a reason.
    """

    def __init__(self, *, pause: float = 0.02, delay: float = 0.0, startup: float = 0.1) -> None:
        self.settings = Settings()
        self.next: float | None = None  # when to look whether a run is wanted
        self._pause = min(max(pause, 0.0), _PAUSE_MAX)
        self._delay = max(delay, 0.0)
        self._startup = max(startup, 0.0)
        self._interval = 1.0
        self._last: float | None = None  # when the last run ended
        self._seconds, self._runs = 0.0, 0
        self._deletions, self._changes, self._is_triggered = 0, 0, False

    def start(self, now: float) -> None:
        """The server starts."""
        if self._startup:
            self.next = now + self._startup

    def changed(self, now: float, *, deleted: bool) -> None:
        """A record has changed.

        Args:
            now: the time.
            deleted: something is gone, as containerd counts it for its collector.
        """
        self._deletions += deleted
        self._changes += 1
        if self.next is None and self._is_due():
            self.next = now + self._delay
        self._hurry(now)

    def trigger(self, now: float) -> None:
        """Somebody waits for a run."""
        self._is_triggered = True
        self._hurry(now)

    def is_wanted(self) -> bool:
        """Whether to run, when it is time."""
        return self._is_triggered or self._last is None or self._is_due()

    def begin(self) -> Reasons:
        """A run begins: what happens from here on is a reason for the next one."""
        reasons = Reasons(self._deletions, self._changes, self._is_triggered or self._last is None)
        self._deletions, self._changes, self._is_triggered = 0, 0, False
        return reasons

    def put_off(self, now: float) -> None:
        """It was time, and there was no run."""
        self.next = now + self._interval
        self._hurry(now)

    def ended(self, now: float, seconds: float) -> None:
        """The run has ended; it took `seconds`."""
        self._seconds += seconds
        self._runs += 1
        if self._pause:
            average = max(self._seconds / self._runs, _RUN_MIN)
            self._interval = average / self._pause - average
        self._last = now
        self.put_off(now)

    def failed(self, now: float, reasons: Reasons) -> None:
        """The run has failed. It is repeated, a second later than it would have come, and after each
        further failure in a row a second later still.
        """
        waited = self._interval if self._last is None or self.next is None else self.next - self._last
        self._last, self.next = now, now + max(waited, 0.0) + 1.0
        self._hurry(now)
        self._deletions += reasons.deletions
        self._changes += reasons.changes
        self._is_triggered |= reasons.is_asked_for

    def _is_due(self) -> bool:
        return self._deletions > 0 or 0 < self.settings.mutation_threshold <= self._changes

    def _hurry(self, now: float) -> None:
        """Have the run at once, if there is a reason that cannot wait."""
        if self._is_triggered or 0 < self.settings.deletion_threshold <= self._deletions:
            at_once = now + self._delay
            self.next = at_once if self.next is None else min(self.next, at_once)


class Scheduler:
    """Runs gc by a `Schedule`, in a thread of its own.

    Args:
        run: collects. What it raises goes to who waits, and into the log.
        log: where failures go.
        settings: the store's thresholds, asked for before each run.
        is_due: whether the logs say that gc is due. Asked before a run that nobody asked for: another
            process may have collected meanwhile.
        schedule: when.
    """

    def __init__(
        self,
        run: Callable[[], object],
        log: Log,
        *,
        settings: Callable[[], Settings] = Settings,
        is_due: Callable[[], bool] = lambda: True,
        schedule: Schedule | None = None,
    ) -> None:
        self._collect = run
        self._log = log
        self._settings = settings
        self._is_due = is_due
        self._schedule = schedule or Schedule()
        self._changed = threading.Condition()
        self._waiting: list[_Waiter] = []
        self._is_running = False
        self._thread = threading.Thread(target=self._run, name="gc", daemon=True)

    def start(self) -> None:
        """Begin. The first run comes by itself."""
        self._schedule.settings = self._settings()
        self._schedule.start(time.monotonic())
        self._is_running = True
        self._thread.start()

    def changed(self, *, deleted: bool) -> None:
        """A record has changed.

        Args:
            deleted: an image, content or lease is gone, or a lease let go of something.
        """
        with self._changed:
            self._schedule.changed(time.monotonic(), deleted=deleted)
            self._changed.notify()

    def happened(self, operation: Operation) -> None:
        """As `changed`, for all that an operation in the log has changed: what `Watch.listen` takes."""
        for change in operation.changes:
            self.changed(deleted=deletes(change.kind, change.old, change.new))

    def collect(self) -> None:
        """Have a whole run, begun after this call, and return when it has ended.

        Raises:
            DataLoss, Unavailable: as `ops.gc.collect`; or the server stops.
        """
        waiter = _Waiter()
        with self._changed:
            if not self._is_running:
                raise _stopping()
            self._waiting.append(waiter)
            self._schedule.trigger(time.monotonic())
            self._changed.notify()
        waiter.wait()

    def stop(self) -> None:
        """End, after the run that is going on. Who waits for another is told."""
        with self._changed:
            self._is_running = False
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while self._wait():
            with self._changed:
                waiting, self._waiting = self._waiting, []
                reasons = self._schedule.begin()
            if reasons.is_asked_for or self._says_log():
                error = self._collected(reasons)
                for waiter in waiting:
                    waiter.done(error)
        for waiter in self._waiting:
            waiter.done(_stopping())

    def _wait(self) -> bool:
        """Wait until it is time for a run that is wanted; False if none is any more."""
        with self._changed:
            while self._is_running:
                now, next = time.monotonic(), self._schedule.next
                if next is None or next > now:
                    self._changed.wait(None if next is None else next - now)
                elif self._schedule.is_wanted():
                    break
                else:
                    self._schedule.put_off(now)
            return self._is_running

    def _says_log(self) -> bool:
        try:
            return self._is_due()
        except ImgtoolError:
            return True  # the run will say what is wrong

    def _collected(self, reasons: Reasons) -> ImgtoolError | None:
        """Run; returns why it failed."""
        began = time.monotonic()
        failure = None
        try:
            self._schedule.settings = self._settings()
            self._collect()
        except ImgtoolError as error:
            failure = type(error)(f"gc failed: {error.message}", hint=error.hint)
        except Exception as error:
            failure = ImgtoolError(f"gc failed: {type(error).__name__}: {error}")
        now = time.monotonic()
        with self._changed:
            if failure is None:
                self._schedule.ended(now, now - began)
            else:
                self._schedule.failed(now, reasons)
        if failure is not None:
            self._log.warn(failure.message)
        return failure


def for_store(open: Open, log: Log) -> Scheduler:
    """The scheduler of a store: collects with `ops.gc`, and asks the logs as `gc --auto` does. But here
    `deletion_threshold` says what cannot wait, as in containerd, and not what is too little.
    """

    def collect() -> None:
        with open() as store:
            gc.collect(store)

    def settings() -> Settings:
        with open() as store:
            return store.settings

    def is_due() -> bool:
        with open() as store:
            return auto.due(store, any_deletion=True) is not None

    return Scheduler(collect, log, settings=settings, is_due=is_due)


class _Waiter:
    def __init__(self) -> None:
        self._is_done = threading.Event()
        self._error: ImgtoolError | None = None

    def done(self, error: ImgtoolError | None) -> None:
        self._error = error
        self._is_done.set()

    def wait(self) -> None:
        self._is_done.wait()
        if self._error is not None:
            raise self._error


def _stopping() -> Unavailable:
    return Unavailable("gc does not run: the server stops")
