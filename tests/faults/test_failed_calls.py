"""Every call of every change fails once: the old state or the new, and a repeat succeeds (F4, F5)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress

import pytest

from imgtool.errors import ImgtoolError, ResourceExhausted

from .conftest import Trial
from .double import Double, Failing, in_place, process
from .scenarios import SCENARIOS, Scenario, check_between, check_usable, opened, repeat, state

each = pytest.mark.parametrize("scenario", SCENARIOS, ids=[s.name.replace(" ", "-") for s in SCENARIOS])
ERRORS = {errno.EIO: ImgtoolError, errno.ENOSPC: ResourceExhausted}


@each
@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
def test_a_failed_call_leaves_the_old_state_or_the_new(
    scenario: Scenario, number: int, trial_of: Callable[[Scenario], Trial]
) -> None:
    """Whoever sees exit 1 or 9 repeats the command, and that is all he has to do."""
    trial = trial_of(scenario)
    at, done = 0, False
    while not done:
        at += 1
        trial.disk()
        double = Failing(at, number)
        raised: BaseException | None = None
        with process(), in_place(double):
            store = opened(trial.root)
            try:
                scenario.change(store)
            except Exception as error:
                raised = error
            store.close()
        done = not double.failed
        where = f"call {at}, {double.failed}, of {double.calls}: {raised!r}"
        assert raised is None or type(raised) is ERRORS[number], where
        assert not double.sync_repeated, where
        with in_place(Double()):
            with opened(trial.root) as store:
                found = state(store)
            check_between(found, trial.states, where)
            assert raised or found == trial.new, where
            check_usable(trial.root, scenario, trial.new, where)
    assert at > 5


@each
def test_a_store_that_is_open_survives_a_failed_call(
    scenario: Scenario, trial_of: Callable[[Scenario], Trial]
) -> None:
    """A daemon keeps one open for weeks: what failed once must not be in the way of the next call."""
    trial = trial_of(scenario)
    at, done = 0, False
    while not done:
        at += 1
        trial.disk()
        double = Failing(at, errno.EIO)
        with process(), opened(trial.root) as store:
            with in_place(double), suppress(ImgtoolError):
                scenario.change(store)
            done = not double.failed
            where = f"call {at}, {double.failed}, of {double.calls}"
            with in_place(Double()):
                repeat(store, scenario)
                assert state(store) == trial.new, where
