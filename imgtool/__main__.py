"""The process: standard descriptors, signals, exit status. Everything else is in `imgtool.cli`."""

from __future__ import annotations

import os
import sys

TERMINATED = 143
INTERRUPTED = 130


class Terminated(BaseException):
    """SIGTERM arrived. An exception, so that unwinding removes temporary files."""


def main() -> None:
    """Run the command line of this process, and end it."""
    status = _run()
    # Everything is flushed and closed. Python would now free its memory piece by piece, which takes an
    # eighth of a short command's time.
    os._exit(status)


def _run() -> int:
    import signal

    def terminate(signum: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    try:
        _fill_standard_descriptors()
        if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            signal.signal(signal.SIGTERM, terminate)
        from imgtool.cli.main import run

        return run(sys.argv[1:])
    except KeyboardInterrupt:
        return INTERRUPTED
    except Terminated:
        return TERMINATED


def _fill_standard_descriptors() -> None:
    # A closed 0, 1 or 2 would be given to the next file that is opened, and be written to.
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


if __name__ == "__main__":
    main()
