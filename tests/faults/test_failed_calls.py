"""Every call of every change fails once: the old state or the new, and a repeat succeeds (F4, F5)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import nullcontext, suppress

import pytest

from imgtool.disk import open_store
from imgtool.errors import ImgtoolError, ResourceExhausted

from .conftest import Trial
from .double import Double, Failing, Full, in_place, process
from .scenarios import SCENARIOS, Scenario, check_between, check_usable, opened, repeat, state

each = pytest.mark.parametrize("scenario", SCENARIOS, ids=[s.name.replace(" ", "-") for s in SCENARIOS])
ERRORS = {errno.EIO: ImgtoolError, errno.ENOSPC: ResourceExhausted}
NEEDS_ROOM = {"open", "write", "mkdir", "link", "rename", "ftruncate", "copy_file_range", "fsync", "syncfs"}


@each
def test_a_failed_call_leaves_the_old_state_or_the_new(
    scenario: Scenario, trial_of: Callable[[Scenario], Trial]
) -> None:
    """Whoever sees exit 1 or 9 repeats the command, and that is all he has to do."""
    trial = trial_of(scenario)
    for at, name in enumerate(trial.calls, 1):
        for number in [errno.EIO, errno.ENOSPC] if name in NEEDS_ROOM else [errno.EIO]:
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
            assert double.failed
            where = f"call {at}, {double.failed}, of {double.calls}: {raised!r}"
            assert raised is None or type(raised) is ERRORS[number], where
            assert not double.sync_repeated, where
            with in_place(Double()):
                with opened(trial.root) as store:
                    found = state(store)
                check_between(found, trial.states, where)
                assert raised or found == trial.new, where
                if number == errno.EIO:  # what is left does not depend on the number
                    check_usable(trial.root, scenario, trial.new, where)
    assert len(trial.calls) > 5


@each
def test_a_store_that_is_open_survives_a_failed_call(
    scenario: Scenario, trial_of: Callable[[Scenario], Trial]
) -> None:
    """A daemon keeps one open for weeks: what failed once must not be in the way of the next call."""
    trial = trial_of(scenario)
    for at in range(1, len(trial.calls) + 1):
        trial.disk()
        double = Failing(at, errno.EIO)
        with process(), opened(trial.root) as store:
            with in_place(double), suppress(ImgtoolError):
                scenario.change(store)
            where = f"call {at}, {double.failed}, of {double.calls}"
            with in_place(Double()):
                repeat(store, scenario)
                assert state(store) == trial.new, where


MAKING = {
    *("make a store", "publish", "publish under another name", "heal", "copy and commit", "create"),
    *("create with needs", "label", "retarget", "rename", "label content", "hold", "create a lease"),
    *(
        "create a namespace",
        "label a namespace",
        "begin an ingest",
        "resume and commit",
        "borrow and commit",
        "borrow and append",
        "commit under a lease",
        "publish under a lease",
    ),
}


@each
def test_on_a_full_disk_what_makes_room_works_and_nothing_is_lost(
    scenario: Scenario, trial_of: Callable[[Scenario], Trial]
) -> None:
    """F5: exit 9 and the old records intact; deleting and gc go on, without their line in the log."""
    trial = trial_of(scenario)
    trial.disk()
    warnings: list[str] = []
    with process(), in_place(Full()), open_store(trial.root, warn=warnings.append) as store:
        if scenario.name in MAKING:
            with pytest.raises(ResourceExhausted):
                scenario.change(store)
            assert state(store) == trial.old
            return
        if scenario.name == "let go":  # less than before, but a new file
            return
        with suppress(ResourceExhausted) if scenario.name == "publish what is there" else nullcontext():
            scenario.change(store)
        assert state(store) == trial.new
        assert warnings or scenario.name in ("publish what is there", "abort an ingest")
