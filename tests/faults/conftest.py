"""Stores that are made once and broken often."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .double import Double, in_place
from .scenarios import Scenario, State, logged, opened, state


class Trial:
    """Fresh copies of the store as it is before a scenario, and what it says before and after."""

    def __init__(self, scenario: Scenario, path: Path) -> None:
        self.scenario = scenario
        self._before, self._disk = path / "before", path / "disk"
        self.root = str(self._disk / "store")
        with in_place(Double()):
            with opened(str(self._before)) as store:
                scenario.before(store)
                self.old: State = state(store)
                self.logged = logged(store)
            self.disk()
            with in_place(Double()) as undisturbed, opened(self.root) as store:
                scenario.change(store)
                self.new: State = state(store)
        self.calls = undisturbed.calls
        self.states = [self.old, self.new, scenario.between]

    def disk(self) -> str:
        """Make `root` as it was before; returns the directory that holds it."""
        shutil.rmtree(self._disk, ignore_errors=True)
        self._disk.mkdir()
        if self._before.exists():
            copy_tree(str(self._before), self.root)
        return str(self._disk)


def copy_tree(source: str, target: str) -> None:
    """Copy a store. What is never changed in place is linked, which is quicker."""
    os.mkdir(target, 0o700)
    for entry in os.scandir(source):
        to = f"{target}/{entry.name}"
        if entry.is_dir():
            copy_tree(entry.path, to)
        elif entry.stat().st_mode & 0o222:
            shutil.copy(entry.path, to)
        else:
            os.link(entry.path, to)


@pytest.fixture
def quick_path(tmp_path: Path) -> Iterator[Path]:
    """A fresh directory in memory, where the machine has such: thousands of stores come and go there."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="imgtool-test-", dir="/dev/shm") as path:
        yield Path(path)


@pytest.fixture
def trial_of(quick_path: Path) -> Callable[[Scenario], Trial]:
    return lambda scenario: Trial(scenario, quick_path)
