"""What every command gets: the global options, the store, stdout, and where failures go."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from imgtool.cli.failures import Failures
from imgtool.cli.output import Output
from imgtool.errors import InvalidArgument
from imgtool.names import DEFAULT_NAMESPACE, check_namespace

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgtool.disk import DiskStore
    from imgtool.stores import Records


class Context:
    """The world of one call: the global options, those not given from the environment."""

    def __init__(self) -> None:
        env = os.environ.get
        self.root_option = env("IMGTOOL_ROOT") or None
        self.namespace_option = env("IMGTOOL_NAMESPACE") or env("CONTAINERD_NAMESPACE") or None
        self.quiet = False
        self.verbose = False
        self.debug = False
        self.progress = "auto"
        self.lock_timeout = 30.0
        self.format = "table"
        self.clear_line: Callable[[], object] = lambda: None
        """Takes back what `Progress` shows; called before anything is printed, on stdout too."""
        self.failures = Failures(self)
        self.out = Output(self)
        self._store: DiskStore | None = None

    @property
    def root(self) -> str:
        """The store's directory: --root or $IMGTOOL_ROOT, $XDG_DATA_HOME/imgtool, ~/.local/share/imgtool.

        Raises:
            InvalidArgument: --root is empty; or there is none, and no home directory.
        """
        if self.root_option is not None:
            if not self.root_option:
                raise InvalidArgument("--root is empty")
            return self.root_option
        data = os.environ.get("XDG_DATA_HOME", "")
        if not os.path.isabs(data):  # the XDG specification: relative ones are to be ignored
            data = os.path.expanduser("~/.local/share")
            if data.startswith("~"):
                raise InvalidArgument(
                    "there is no home directory to look for the store in", hint="give --root"
                )
        return f"{data.rstrip('/')}/imgtool"

    @property
    def namespace(self) -> str:
        """The namespace.

        Raises:
            InvalidArgument: it can be none.
        """
        return check_namespace(DEFAULT_NAMESPACE if self.namespace_option is None else self.namespace_option)

    @property
    def json(self) -> bool:
        """Whether stdout and stderr are for a program: `--format json` or `jsonl`."""
        return self.format in ("json", "jsonl")

    def store(self) -> DiskStore:
        """The store, opened at the first call."""
        if self._store is None:
            from imgtool.disk import open_store

            self.detail(f"store '{self.root}', namespace '{self.namespace}'")
            self._store = open_store(self.root, lock_timeout=self.lock_timeout, warn=self.failures.warn)
        return self._store

    def records(self, *, dry_run: bool) -> Records:
        """The store's records to change, or only to try that."""
        return self.store().dry_run() if dry_run else self.store()

    def namespaces(self, all: bool) -> list[str]:
        """The namespace; with `all` every one that the store has, past records that cannot be read, which
        are reported.
        """
        if not all:
            return [self.namespace]
        return [found.name for found in self.store().namespaces.list(on_error=self.failures.add)]

    def close(self) -> None:
        """Let go of the store: temporary files go."""
        if self._store is not None:
            self._store.close()

    def detail(self, text: str) -> None:
        """Talk on stderr, if `-v` asks for it."""
        if self.verbose:
            self.failures.note(text)

    def say(self, text: str) -> None:
        """Talk on stderr, unless `-q`."""
        if not self.quiet:
            self.failures.note(text)
