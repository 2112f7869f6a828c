"""What the parts of the server are to each other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from imgtool.errors import InvalidArgument
from imgtool.stores import Store

Open = Callable[[], AbstractContextManager[Store]]
"""Opens the store for one call, in the thread of that call. A `DiskStore` is not to be shared by threads
(its workspace numbers its files, and its memory of records is one for all), and a store that is opened
anew sees what has become of the files and of imgtool.toml meanwhile.
"""


class OutOfRange(InvalidArgument):
    """An offset that the content does not have."""

    grpc = "OUT_OF_RANGE"


class Unimplemented(InvalidArgument):
    """A method that imgtool does not have."""

    grpc = "UNIMPLEMENTED"


class Scheduler(Protocol):
    """Runs gc. It learns from the logs what has changed, as subscribers do."""

    def collect(self) -> None:
        """Run a whole gc, begun after this call, and return when it has ended.

        Raises:
            DataLoss, Unavailable: as `ops.gc.collect`.
        """


class Publisher(Protocol):
    """Tells subscribers what has happened. The log of the namespace says what that is: it has the changes
    of every process, those of this server among them.
    """

    def changed(self, namespace: str) -> None:
        """The log of `namespace` has new lines: subscribers are told when this returns."""

    def changing(self, namespace: str, caller: str, topic: str | None) -> AbstractContextManager[None]:
        """Inside, a client changes the namespace itself. See `exchange.Exchange.changing`."""


class Log(NamedTuple):
    """Lines on stderr, from any thread."""

    say: Callable[[str], None]  # what whoever runs the server wants to know
    detail: Callable[[str], None]  # what only `-v` asks for
    warn: Callable[[str], None]  # something is wrong, and the server goes on
