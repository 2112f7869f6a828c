"""The power is cut at every call of every change, and after it (F3)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Trial
from .disk import Disk, Left
from .double import Call, Double, Killed, in_place, process
from .scenarios import SCENARIOS, Scenario, State, check_between, check_usable, opened, state

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


class Dying(Disk):
    """Is killed after the change `at` of a directory's entries."""

    def __init__(self, root: str, at: int) -> None:
        super().__init__(root)
        self.left = at

    def perform(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.left == 0:
            raise Killed
        result = super().perform(call, args, kwargs)
        self.left -= call.__name__ in ENTRIES
        return result


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
                    check_between(state(store), allowed, where)
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
    at, done = 0, False
    while not done:
        at += 1
        disk = Dying(trial.disk(), at)
        done = True
        with process(), in_place(disk):
            done = False
            with opened(trial.root) as store:
                scenario.change(store)
            done = True
        disk.left = -1
        killed = len(disk.calls)
        with process(), in_place(disk), opened(trial.root) as store:
            told = False
            try:
                scenario.change(store)
                told = True
            except scenario.again:
                pass  # it says that it did nothing: then nothing is promised
        with in_place(Double()):
            for left in disk.cuts(every=False):
                where = f"killed at call {killed} of {disk.calls}, told: {told}"
                with opened(after(left)) as store:
                    check_between(state(store), [trial.new] if told else trial.states, where)
