"""The table of parts: what the server is made of, in containerd's words, and in which order.

A call goes down through it: a face (`grpc`) translates, a local service (`service`) joins what it needs,
and that ends at the store (`metadata`). `imgtool.serve.local.introspection` shows the table to clients.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from imgtool.serve import scheduler
from imgtool.serve.contracts import Log, Open
from imgtool.serve.exchange import Exchange
from imgtool.serve.handlers import Service
from imgtool.serve.local.backend import backend
from imgtool.serve.local.content import LocalContent
from imgtool.serve.local.images import LocalImages
from imgtool.serve.local.introspection import LocalIntrospection, Plugin
from imgtool.serve.local.leases import LocalLeases
from imgtool.serve.local.namespaces import LocalNamespaces
from imgtool.serve.services.content import Content
from imgtool.serve.services.events import Events
from imgtool.serve.services.health import Health
from imgtool.serve.services.images import Images
from imgtool.serve.services.introspection import Introspection
from imgtool.serve.services.leases import Leases
from imgtool.serve.services.namespaces import Namespaces
from imgtool.serve.services.snapshots import Snapshots
from imgtool.serve.services.version import Version
from imgtool.serve.watch import Watch

METADATA = "io.containerd.metadata.v1"
EVENT = "io.containerd.event.v1"
GC = "io.containerd.gc.v1"
SERVICE = "io.containerd.service.v1"
GRPC = "io.containerd.grpc.v1"


class World(NamedTuple):
    """What is there before the parts.

    Args:
        root: the store's directory, resolved.
        open: opens the store.
        log: where to say things.
        stopping: set when the server is to stop: streams without end are to end then.
        on_stop: what is put here is undone, the last first, when no call runs any more.
    """

    root: str
    open: Open
    log: Log
    stopping: threading.Event
    on_stop: ExitStack


class Init:
    """What one part is made from: the world, and the parts that were made before, by type and id.

    Args:
        world: what is there before the parts.
        watch: tells what is changed in the store; begins when all parts are made.
        made: the parts made so far.
        served: names of the gRPC services, there when all parts are made.
    """

    def __init__(
        self, world: World, watch: Watch, made: dict[tuple[str, str], Any], served: list[str]
    ) -> None:
        self.world = world
        self.watch = watch
        self.served = served
        self._made = made

    def __getitem__(self, part: tuple[str, str]) -> Any:
        return self._made[part]


class Part(NamedTuple):
    """One part; `requires` are types, as in containerd, and stand above it."""

    type: str
    id: str
    requires: tuple[str, ...]
    make: Callable[[Init], Any]


PARTS: tuple[Part, ...] = (
    Part(METADATA, "bolt", (), lambda init: init.world.open),
    Part(EVENT, "exchange", (), lambda init: Exchange(init.watch)),
    Part(GC, "scheduler", (METADATA,), lambda init: _scheduler(init)),
    Part(
        SERVICE,
        "content-service",
        (METADATA, EVENT),
        lambda init: LocalContent(init[METADATA, "bolt"], init[EVENT, "exchange"]),
    ),
    Part(
        SERVICE,
        "backend-service",
        (METADATA, EVENT),
        lambda init: LocalContent(init[METADATA, "bolt"], init[EVENT, "exchange"], backend),
    ),
    Part(
        SERVICE,
        "images-service",
        (METADATA, GC, EVENT),
        lambda init: LocalImages(init[METADATA, "bolt"], init[GC, "scheduler"], init[EVENT, "exchange"]),
    ),
    Part(
        SERVICE,
        "leases-service",
        (METADATA, GC),
        lambda init: LocalLeases(init[METADATA, "bolt"], init[GC, "scheduler"]),
    ),
    Part(
        SERVICE,
        "namespaces-service",
        (METADATA, EVENT),
        lambda init: LocalNamespaces(init[METADATA, "bolt"], init[EVENT, "exchange"]),
    ),
    Part(SERVICE, "introspection-service", (), lambda init: LocalIntrospection(init.world.root, plugins())),
    Part(
        GRPC,
        "content",
        (SERVICE,),
        lambda init: Content(init[SERVICE, "content-service"], init[SERVICE, "backend-service"]),
    ),
    Part(GRPC, "events", (EVENT,), lambda init: Events(init[EVENT, "exchange"])),
    Part(GRPC, "images", (SERVICE,), lambda init: Images(init[SERVICE, "images-service"])),
    Part(GRPC, "leases", (SERVICE,), lambda init: Leases(init[SERVICE, "leases-service"])),
    Part(GRPC, "namespaces", (SERVICE,), lambda init: Namespaces(init[SERVICE, "namespaces-service"])),
    Part(
        GRPC,
        "introspection",
        (SERVICE,),
        lambda init: Introspection(init[SERVICE, "introspection-service"]),
    ),
    Part(GRPC, "snapshots", (), lambda _: Snapshots()),
    Part(GRPC, "version", (), lambda _: Version()),
    Part(GRPC, "healthcheck", (), lambda init: Health(init.served)),
)


def plugins() -> Sequence[Plugin]:
    """The table as clients see it."""
    return [Plugin(part.type, part.id, part.requires) for part in PARTS]


def compose(world: World) -> list[Service]:
    """Make all parts, in the order of the table; returns the faces."""
    made: dict[tuple[str, str], Any] = {}
    watch = Watch(world.open, world.log, world.stopping)
    world.on_stop.callback(watch.stop)
    init = Init(world, watch, made, [])
    for part in PARTS:
        made[part.type, part.id] = part.make(init)
    watch.start()
    faces: list[Service] = [face for (type, _), face in made.items() if type == GRPC]
    init.served.extend(face.descriptor.full_name for face in faces)
    return faces


def _scheduler(init: Init) -> scheduler.Scheduler:
    made = scheduler.for_store(init[METADATA, "bolt"], init.world.log)
    init.watch.listen(made.happened)
    init.world.on_stop.callback(made.stop)
    made.start()
    return made
