"""The power is cut at every call of every change, and after it (F3)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from imgtool.disk import DiskStore
from imgtool.errors import ImgtoolError, NotFound, Unavailable
from imgtool.model import Namespace
from imgtool.ops import gc

from .conftest import Trial
from .disk import Disk, Left
from .double import Call, Double, Killed, in_place, process
from .scenarios import (
    LEAVES,
    MORE,
    NS,
    OTHER,
    SCENARIOS,
    TOP,
    Scenario,
    State,
    check_between,
    check_logged,
    check_usable,
    digest,
    image,
    opened,
    publish,
    state,
)

each = pytest.mark.parametrize("scenario", SCENARIOS, ids=[s.name.replace(" ", "-") for s in SCENARIOS])
ENTRIES = {"link", "unlink", "rename", "mkdir", "rmdir"}


class Watched(Disk):
    """Does something before every call."""

    def __init__(self, root: str, before_each: Callable[[], None]) -> None:
        super().__init__(root)
        self._before_each = before_each

    def perform(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._before_each()
        return super().perform(call, args, kwargs)


class Until(Disk):
    """Calls `reached` once: before the call that comes after the change `at` of a directory's entries."""

    def __init__(self, root: str, at: int, reached: Callable[[], None]) -> None:
        super().__init__(root)
        self._to_come = at
        self._reached: Callable[[], None] | None = reached

    def perform(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._to_come == 0 and self._reached:
            reached, self._reached = self._reached, None
            reached()
        result = super().perform(call, args, kwargs)
        self._to_come -= call.__name__ in ENTRIES
        return result

    def disarm(self) -> bool:
        """Whether it was reached; if not, it is not from now on."""
        was_reached, self._reached = self._reached is None, None
        return was_reached


class Failing(Disk):
    """Fails at the sync `at` (counted from 1)."""

    def __init__(self, root: str, at: int) -> None:
        super().__init__(root)
        self.to_come = at

    def perform(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if call is os.fsync:
            self.to_come -= 1
            if self.to_come == 0:
                self.fail_sync(args[0])
        return super().perform(call, args, kwargs)


def die() -> None:
    raise Killed


class After:
    """The store after a power cut."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, left: Left) -> str:
        shutil.rmtree(self._path, ignore_errors=True)
        left.make(str(self._path))
        return f"{self._path}/store"


@pytest.fixture
def after(quick_path: Path) -> After:
    return After(quick_path / "after")


@each
def test_a_power_cut_leaves_the_old_state_or_the_new_and_the_new_once_it_is_told(
    scenario: Scenario, trial_of: Callable[[Scenario], Trial], after: After
) -> None:
    """Whatever of what was not synced is kept: a record never names what is not there whole."""
    trial = trial_of(scenario)
    checked = 0

    def look(*allowed: State) -> None:
        nonlocal checked
        with in_place(Double()):
            for left in disk.cuts():
                checked += 1
                where = f"cut before call {disk.count} of {disk.calls}: {left}"
                root = after(left)
                with opened(root) as store:
                    found = state(store)
                    check_between(found, allowed, where)
                    check_logged(store, found, trial.old, trial.logged)
                check_usable(root, scenario, trial.new, where)

    disk = Watched(trial.disk(), lambda: look(*trial.states))
    with process(), in_place(disk), opened(trial.root) as store:
        scenario.change(store)
        disk.given.clear()
        look(trial.new)
    assert checked > 4


@each
def test_what_is_repeated_after_a_kill_outlives_a_power_cut(
    scenario: Scenario, trial_of: Callable[[Scenario], Trial], after: After
) -> None:
    """The repeat finds the change made, but not whether it was synced before the kill."""
    trial = trial_of(scenario)
    for disk in killed(trial):
        told = False
        with process(), in_place(disk), opened(trial.root) as store, suppress(*scenario.again):
            scenario.change(store)
            told = True  # else it says that it did nothing, and promises nothing
        with in_place(Double()):
            for left in disk.cuts(every=False):
                with opened(after(left)) as store:
                    check_between(state(store), [trial.new] if told else trial.states, f"{disk.calls}")


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("delete the last root", gc.collect),
        ("delete content", gc.collect),
        ("delete a namespace", gc.collect),
        ("retarget", gc.collect),
        ("gc", gc.collect),
        ("gc", lambda store: publish(store, "again")),
        ("gc of a namespace", lambda store: store.namespaces.delete(OTHER)),
        ("publish", lambda store: store.images(NS).delete("new")),
        ("heal", lambda store: store.images(NS).create(image("by needs", TOP), needs=[digest(LEAVES[0])])),
        ("make a store", lambda store: publish(store, "beside", OTHER)),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_what_is_done_after_a_kill_outlives_a_power_cut(
    first: str, then: Callable[[DiskStore], object], trial_of: Callable[[Scenario], Trial], after: After
) -> None:
    """Whoever builds on what a killed process left must not find it gone."""
    trial = trial_of(next(s for s in [*SCENARIOS, *MORE] if s.name == first))
    for disk in killed(trial):
        with process(), in_place(disk), opened(trial.root) as store:
            before = state(store)
            with suppress(NotFound):
                then(store)
                disk.given.clear()
            after_it = state(store)
        told = {k for k in before.keys() | after_it.keys() if before.get(k) != after_it.get(k)}
        with in_place(Double()):
            for left in disk.cuts(every=False):
                with opened(after(left)) as store:
                    found = state(store)
                check_between(found, [after_it, *trial.states], f"{disk.calls}: {left}")
                for key in told:
                    assert found.get(key) == after_it.get(key), f"{key}: {disk.calls}: {left}"


@each
@pytest.mark.parametrize("anew", [False, True], ids=["same-process", "another-process"])
def test_what_is_repeated_after_a_failed_sync_outlives_a_power_cut(
    scenario: Scenario, anew: bool, trial_of: Callable[[Scenario], Trial], after: After
) -> None:
    """F4: the change that failed may be there, or half of it; told is only what is durable."""
    trial = trial_of(scenario)
    at, failed = 0, True
    while failed:
        at += 1
        disk = Failing(trial.disk(), at)
        with process(), in_place(disk), ExitStack() as stores:
            store = stores.enter_context(opened(trial.root))
            with suppress(ImgtoolError):
                scenario.change(store)
            failed, disk.to_come = disk.to_come <= 0, 0
            if anew:
                stores.close()
                store = stores.enter_context(opened(trial.root))
            told = False
            with suppress(*scenario.again):
                scenario.change(store)
                told = True
        with in_place(Double()):
            for left in disk.cuts(every=False):
                with opened(after(left)) as store:
                    check_between(state(store), [trial.new] if told else trial.states, f"{disk.calls}")


def publish_beside(store: DiskStore) -> None:
    """Publish other data, whose objects lie in the same directories as those of `publish`."""
    publish(store, "app", OTHER, top=beside(TOP), leaves=[beside(leaf) for leaf in LEAVES])


@pytest.mark.parametrize(
    ("name", "other", "key"),
    [
        ("make a store", publish_beside, ("image", OTHER, "app")),
        ("make a store", lambda store: store.namespaces.create(Namespace(OTHER)), ("namespace", OTHER)),
        ("publish", publish_beside, ("image", OTHER, "app")),
        ("heal", publish_beside, ("image", OTHER, "app")),
    ],
    ids=["make-a-store", "make-a-store-without-objects", "publish", "heal"],
)
def test_what_is_told_while_another_process_is_at_work_outlives_a_power_cut(
    name: str,
    other: Callable[[DiskStore], object],
    key: tuple[str, ...],
    trial_of: Callable[[Scenario], Trial],
    after: After,
) -> None:
    """The other one has made directories that both need, and has not synced them yet."""
    trial = trial_of(next(scenario for scenario in SCENARIOS if scenario.name == name))
    told: State = {}

    def meanwhile() -> None:
        nonlocal told
        with opened(trial.root) as store, suppress(Unavailable):
            other(store)
            told = {k: v for k, v in state(store).items() if k[1] == OTHER}
        if told:
            check()

    def check() -> None:
        with in_place(Double()):
            for left in disk.cuts(every=False):
                with opened(after(left)) as store:
                    check_between(
                        state(store), [{**s, **told} for s in trial.states], f"{disk.calls}: {left}"
                    )

    at, reached, times = 0, True, 0
    while reached:
        at, told = at + 1, {}
        disk = Until(trial.disk(), at, meanwhile)
        with process(), in_place(disk), opened(trial.root) as store:
            trial.scenario.change(store)
        if told:
            assert key in told
            times += 1
            check()
        reached = disk.disarm()
    assert times > 3


def killed(trial: Trial) -> Iterator[Disk]:
    """The disk after a kill at each change of a directory's entries, and after none."""
    at, reached = 0, True
    while reached:
        at += 1
        disk = Until(trial.disk(), at, die)
        with process(), in_place(disk), opened(trial.root) as store:
            trial.scenario.change(store)
        reached = disk.disarm()
        yield disk


def beside(data: bytes) -> bytes:
    """Other data whose object lies in the same directory."""
    tries = (data + str(i).encode() for i in count())
    return next(other for other in tries if digest(other).encoded[:2] == digest(data).encoded[:2])
