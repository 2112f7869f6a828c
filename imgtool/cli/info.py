"""What a store holds, counted."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from imgtool.cli.output import Row, safe, size_text

if TYPE_CHECKING:
    from imgtool.cli.context import Context
    from imgtool.stores import Store


def count(c: Context) -> dict[str, Any]:
    """Where the store is, its format and settings, and how many there are of each thing, with their
    sizes in bytes. Records that cannot be read are reported and not counted.
    """
    store = c.store()
    found = store.setup
    gc = found.settings._asdict()
    sharing = gc.pop("sharing")
    sizes = [size for _, size in store.objects()]
    namespaces = [
        _namespace(c, store, namespace.name) for namespace in store.namespaces.list(on_error=c.failures.add)
    ]
    return {
        "root": os.path.abspath(c.root),
        "exists": found.exists,
        "format": {"read": found.read, "write": found.write},
        "locking": "flock" if found.locking else "none",
        "sharing": sharing,
        "gc": gc,
        "objects": {"count": len(sizes), "size": sum(sizes)},
        "namespaces": namespaces,
    }


def _namespace(c: Context, store: Store, name: str) -> dict[str, Any]:
    content = store.content(name)
    sizes = [info.size for info in content.list(on_error=c.failures.add)]
    offsets = [status.offset for status in content.statuses()]
    return {
        "name": name,
        "images": {"count": len(store.images(name).names(on_error=c.failures.add))},
        "content": {"count": len(sizes), "size": sum(sizes)},
        "leases": {"count": sum(1 for _ in store.leases(name).list(on_error=c.failures.add))},
        "ingests": {"count": len(offsets), "size": sum(offsets)},
    }


def text(held: Row, *, exact: bool, root_only: bool = False) -> str:
    """`held`, as `count` returns it, for a person.

    Args:
        exact: sizes in bytes.
        root_only: only where it is.
    """
    if root_only:
        return f"{safe(held['root'])}\n"

    def amount(thing: Row) -> str:
        size = f", {size_text(thing['size'], exact=exact)}" if "size" in thing else ""
        return f"{thing['count']}{size}"

    form, gc = held["format"], held["gc"]
    lines = [
        ("root", safe(held["root"])),
        ("format", f"read {form['read']}, write {form['write']}" if held["exists"] else "no store yet"),
        ("locking", held["locking"]),
        ("sharing", held["sharing"]),
        ("gc", ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in gc.items())),
        ("objects", amount(held["objects"])),
    ]
    for namespace in held["namespaces"]:
        lines.append(("namespace", safe(namespace["name"])))
        lines += [
            (f"  {what}", amount(namespace[what])) for what in ("images", "content", "leases", "ingests")
        ]
    return "".join(f"{name + ':':<12}{value}\n" for name, value in lines)
