"""The process is killed at every call of every change: the old state or the new, and no lock left (F1)."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

import pytest

from .conftest import Trial
from .double import Double, Interrupting, Killing, in_place, process
from .scenarios import SCENARIOS, Scenario, check_between, check_usable, opened, state

each = pytest.mark.parametrize("scenario", SCENARIOS, ids=[s.name.replace(" ", "-") for s in SCENARIOS])


@each
def test_a_kill_leaves_the_old_state_or_the_new(
    scenario: Scenario, trial_of: Callable[[Scenario], Trial]
) -> None:
    """The next command works at once, and gc takes the litter."""
    trial = trial_of(scenario)
    for at in range(1, len(trial.calls) + 1):
        trial.disk()
        double = Killing(at)
        with process(), in_place(double):
            with opened(trial.root) as store:
                scenario.change(store)
            raise AssertionError
        where = f"killed before call {at} of {double.calls}"
        with in_place(Double()):
            with opened(trial.root) as store:
                check_between(state(store), trial.states, where)
            check_usable(trial.root, scenario, trial.new, where)
    assert len(trial.calls) > 5


@each
def test_an_interrupt_leaves_no_temporary_file(
    scenario: Scenario, trial_of: Callable[[Scenario], Trial]
) -> None:
    """F2: whoever presses Ctrl-C finds the old state or the new, and nothing of his own lying about."""
    trial = trial_of(scenario)
    for at, name in enumerate(trial.calls, 1):
        trial.disk()
        double = Interrupting(at)
        with process(), in_place(double), suppress(KeyboardInterrupt):
            with opened(trial.root) as store:
                scenario.change(store)
            raise AssertionError
        where = f"interrupted before call {at} of {double.calls}"
        tmp = f"{trial.root}/tmp"
        # Who interrupts even the removal of temporary files leaves them to gc.
        assert name in ("unlink", "rmdir") or not os.path.isdir(tmp) or not os.listdir(tmp), where
        with in_place(Double()), opened(trial.root) as store:
            check_between(state(store), trial.states, where)
