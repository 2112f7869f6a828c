"""What the whole test run obeys: the fixture runner, and in CI a skipped test is a failure."""

from __future__ import annotations

import os
import signal

import pytest

pytest_plugins = ["tests.fixture_runner"]

_skipped: list[str] = []


def pytest_configure() -> None:
    # A shell starts what runs in its background with SIGINT ignored, and every child would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped.append(report.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.skipped:
        _skipped.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _skipped and os.environ.get("CI") and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _skipped and os.environ.get("CI"):
        terminalreporter.write_line(f"{len(_skipped)} skipped, which is a failure in CI:", red=True)
        for nodeid in _skipped:
            terminalreporter.write_line(f"  {nodeid}")
