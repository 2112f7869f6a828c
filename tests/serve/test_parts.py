"""The table of parts, and who the server says it is."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from imgtool.disk import open_store
from imgtool.serve.contracts import Log
from imgtool.serve.local.introspection import LocalIntrospection
from imgtool.serve.parts import PARTS, Init, World
from imgtool.serve.watch import Watch


class Noting(dict[tuple[str, str], Any]):
    """The parts that were made, and the types of those that were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[str] = set()

    def __getitem__(self, part: tuple[str, str]) -> Any:
        self.asked.add(part[0])
        return super().__getitem__(part)


def test_each_part_requires_what_it_is_made_of_and_that_stands_above(tmp_path: Path) -> None:
    """What clients are shown is what is so."""
    with ExitStack() as stack:
        log = Log(print, print, print)
        world = World(
            str(tmp_path), partial(open_store, str(tmp_path / "store")), log, threading.Event(), stack
        )
        watch = Watch(world.open, log)
        made = Noting()
        for part in PARTS:
            made.asked.clear()
            made[part.type, part.id] = part.make(Init(world, watch, made, []))
            assert made.asked == set(part.requires), part.id


def test_no_two_parts_are_called_alike() -> None:
    assert len({(part.type, part.id) for part in PARTS}) == len(PARTS)


def test_the_identity_of_a_store_stays_and_is_no_other_stores() -> None:
    """Clients tell servers apart by it; it is asked of a new process each time."""
    one, again, other = (LocalIntrospection(root, ()).uuid for root in ("/a", "/a", "/b"))
    assert one == again != other


@pytest.mark.parametrize(
    ("wanted", "found"), [("type==t", ["a", "b"]), ("id==b", ["b"]), ("requires", []), ("id!=a", ["b"])]
)
def test_plugins_are_filtered_by_type_and_id(wanted: str, found: list[str]) -> None:
    from imgtool.serve.local.introspection import Plugin

    parts = LocalIntrospection("/", [Plugin("t", "a"), Plugin("t", "b")])
    assert [plugin.id for plugin in parts.plugins([wanted])] == found
