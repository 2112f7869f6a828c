"""Something else happens between any two calls of a change, as if its process were frozen there (F12)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest

from imgtool.disk import DiskStore, ingests
from imgtool.errors import Unavailable
from imgtool.ops import gc

from .conftest import Trial
from .double import Double, Meanwhile, in_place, process
from .scenarios import SCENARIOS, Scenario, opened, repeat, state

each = pytest.mark.parametrize("scenario", SCENARIOS, ids=[s.name.replace(" ", "-") for s in SCENARIOS])


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody gives up a ref while we wait for it: it is we who have it."""
    monkeypatch.setattr(ingests, "_TRIES", 1)


def check(scenario: Scenario, trial: Trial, other: Callable[[DiskStore], object]) -> int:
    """Do `other` in a process of its own before each call of the change; returns how often it succeeded."""
    at, succeeded, done = 0, 0, False

    def meanwhile() -> None:
        nonlocal succeeded
        with process(), opened(trial.root) as store, suppress(Unavailable):
            other(store)
            succeeded += 1

    while not done:
        at += 1
        trial.disk()
        double = Meanwhile(at, meanwhile)
        with process(), in_place(double), opened(trial.root) as store:
            repeat(store, scenario)
        done = double.count < at
        with in_place(Double()), opened(trial.root) as store:
            assert state(store) == trial.new, f"before call {at} of {double.calls}"
    return succeeded


@each
def test_gc_may_come_at_any_time(scenario: Scenario, trial_of: Callable[[Scenario], Trial]) -> None:
    """It gives up, or takes nothing that is needed: what was looked for under the lock stays."""
    if scenario.name in ("make a store", "gc"):
        other: Callable[[DiskStore], object] = lambda store: store.litter(frozenset())  # noqa: E731
    else:
        other = keeping_gc(scenario)
    assert check(scenario, trial_of(scenario), other)


def keeping_gc(scenario: Scenario) -> Callable[[DiskStore], object]:
    """A gc that removes litter and objects; content without a root is part of what scenarios compare."""

    def collect(store: DiskStore) -> None:
        garbage = gc.find(store)
        with store.removing() as remove:
            again = gc.find(store)
            recorded = {digest for digests in again.content.values() for digest in digests}
            objects = {digest: size for digest, size in again.objects.items() if digest not in recorded}
            remove(again._replace(content={}, objects=objects))
            assert objects.keys() <= garbage.objects.keys() | objects.keys()

    return collect


@each
def test_another_process_may_do_the_same_at_any_time(
    scenario: Scenario, trial_of: Callable[[Scenario], Trial]
) -> None:
    """One of the two makes the change, the other finds it made; neither stumbles over the other's files."""
    assert check(scenario, trial_of(scenario), lambda store: repeat(store, scenario))
