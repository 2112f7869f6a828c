"""What the server is made of, and who it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from imgtool.digest import Digest
from imgtool.errors import NotFound
from imgtool.filters import Adaptor, compile

_MACHINE = "/etc/machine-id"


class Plugin(NamedTuple):
    """A part as clients see it. `requires` are types."""

    type: str
    id: str
    requires: tuple[str, ...] = ()


class LocalIntrospection:
    """
    Args:
        root: the store's directory, resolved.
        plugins: all parts, in their order.
    """

    def __init__(self, root: str, plugins: Sequence[Plugin]) -> None:
        self._plugins = plugins
        self.uuid = str(_identity(root))

    def plugins(self, filters: Sequence[str]) -> Sequence[Plugin]:
        """Those that match. Fields: `type`, `id`.

        Raises:
            InvalidArgument: a filter cannot be parsed.
        """
        matches = compile(filters).matches
        return [plugin for plugin in self._plugins if matches(_fields(plugin))]

    def plugin(self, type: str, id: str) -> Plugin:
        """
        Raises:
            NotFound: there is none.
        """
        for plugin in self._plugins:
            if (plugin.type, plugin.id) == (type, id):
                return plugin
        raise NotFound(f"plugin {type}.{id}")


def _fields(plugin: Plugin) -> Adaptor:
    fields = {"type": plugin.type, "id": plugin.id}
    return lambda path: (fields.get(path[0], ""), path[0] in fields)


def _identity(root: str) -> UUID:
    """One for each directory of each machine: nothing has to be written to keep it, and it stays when the
    store is made anew.
    """
    try:
        with open(_MACHINE, encoding="ascii", errors="replace") as file:
            machine = file.read().strip()
    except OSError:
        machine = ""
    return UUID(Digest.of(f"imgtool\0{machine}\0{root}".encode()).encoded[:32], version=5)
