"""Doubles of `imgtool.disk.atomic._do`, through which every change of the file system goes.

A double performs the calls, counts them, and at one of them does what a disk, a power supply or the
kernel's reaper may do. Nothing is synced for real: whether it was asked for is what is looked at.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from imgtool.disk import atomic

Call = Callable[..., Any]
D = TypeVar("D", bound=Call)


class Killed(BaseException):
    """The process ends here. No `except Exception` may go on; `finally` may close descriptors."""


class Double:
    """Performs every call, and keeps count of them."""

    def __init__(self) -> None:
        self.count = 0
        self.calls: list[str] = []

    def __call__(self, call: Call, *args: Any, **kwargs: Any) -> Any:
        self.count += 1
        self.calls.append(call.__name__)
        return self.perform(call, args, kwargs)

    def perform(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return None if syncs(call) else call(*args, **kwargs)


class Failing(Double):
    """Fails at call `at` (counted from 1).

    Args:
        number: the errno.
    """

    def __init__(self, at: int, number: int) -> None:
        super().__init__()
        self.at, self.number = at, number
        self.failed = ""
        self.sync_failed: set[tuple[int, int]] = set()
        self.sync_repeated: list[str] = []

    def perform(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if call is os.fsync:
            self._watch(args[0])
        if self.count != self.at:
            return super().perform(call, args, kwargs)
        self.failed = call.__name__
        if call is os.fsync:
            self.sync_failed.add(identity(args[0]))
        raise failure(self.number, args)

    def _watch(self, fd: int) -> None:
        """Note a file that is synced once more after that failed: Linux then says that all is well."""
        path = os.readlink(f"/proc/self/fd/{fd}")
        if identity(fd) in self.sync_failed and os.path.isfile(path) and os.path.basename(path) != "log":
            self.sync_repeated.append(path)


class Full(Double):
    """A disk with no room for a byte, a name or a file more. What is there can be changed and removed."""

    def perform(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        makes = call in (os.write, os.mkdir, os.link, os.copy_file_range)
        if makes or (call is os.open and args[1] & os.O_CREAT and not os.path.lexists(args[0])):
            raise failure(errno.ENOSPC, args)
        return super().perform(call, args, kwargs)


class Interrupting(Double):
    """Raises KeyboardInterrupt before call `at`, as the handler of a signal does."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def perform(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.count == self.at:
            raise KeyboardInterrupt
        return super().perform(call, args, kwargs)


class Killing(Double):
    """Ends the process before call `at`, which is after the one before it. No call is made from then on."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def perform(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.count >= self.at:
            raise Killed
        return super().perform(call, args, kwargs)


class Meanwhile(Double):
    """Lets something else happen before call `at`."""

    def __init__(self, at: int, meanwhile: Callable[[], None]) -> None:
        super().__init__()
        self.at, self._meanwhile = at, meanwhile

    def perform(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.count == self.at:
            with in_place(Double()):
                self._meanwhile()
        return super().perform(call, args, kwargs)


@contextmanager
def in_place(double: D) -> Iterator[D]:
    """Put `double` in the place of `atomic._do`."""
    real = atomic._do
    atomic._do = double
    try:
        yield double
    finally:
        atomic._do = real


@contextmanager
def process() -> Iterator[None]:
    """What happens in the block happens in a process that then ends: a kill stays inside, and what it
    left open is closed, which gives up its locks.
    """
    before = set(os.listdir("/proc/self/fd"))
    try:
        yield
    except Killed:
        pass
    finally:
        for fd in sorted(set(os.listdir("/proc/self/fd")) - before):
            with suppress(OSError):  # the one that listed them
                os.close(int(fd))


def failure(number: int, args: tuple[Any, ...]) -> OSError:
    return OSError(number, os.strerror(number), *(arg for arg in args[:1] if isinstance(arg, str)))


def syncs(call: Call) -> bool:
    return call is os.fsync or call.__name__ in ("syncfs", "sync")


def identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino
