"""`imgtool.toml`: the store's format and settings; making a store, and refusing one that is not ours."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from imgtool.disk import atomic, codec, read
from imgtool.disk.layout import Layout, inside, parent
from imgtool.disk.locks import HINT_NO_LOCKS
from imgtool.disk.records import Fields
from imgtool.errors import DataLoss, FailedPrecondition, ImgtoolError, PermissionDenied, from_oserror
from imgtool.model import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgtool.disk.workspace import Workspace

FORMAT = 1
_OURS = {"tmp", "locks", "cache", "ingests"}
_CONTENT = {"objects", "namespaces"}
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}
_MOUNTS = "/proc/self/mountinfo"
# flock on these is not kept by the server for all clients, or not at all.
_NETWORK = {
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "afs",
    "ceph",
    "lustre",
    "fuse.sshfs",
    "fuse.glusterfs",
}


class Setup(NamedTuple):
    """What imgtool.toml says; the defaults where it says nothing."""

    exists: bool = False
    read: int = FORMAT
    write: int = FORMAT
    locking: bool = True
    settings: Settings = Settings()
    unknown: tuple[str, ...] = ()  # keys that mean nothing to this version, with their tables


def load(layout: Layout) -> Setup:
    """The format and settings of the store; the defaults where there is no store.

    Raises:
        FailedPrecondition: the format is newer than this imgtool reads.
        DataLoss: the file cannot be read, has a wrong value, or is missing from a store.
        PermissionDenied: the directory belongs to another user, or everybody may write there.
    """
    _check_owner(layout.root)
    names = set(read.entries(layout.root))
    try:
        data = read.read_regular(layout.settings, codec.RECORD_MAX)
    except FileNotFoundError:
        if names & _CONTENT and not os.path.exists(layout.settings):
            raise DataLoss(
                f"'{layout.root}' holds {' and '.join(sorted(names & _CONTENT))} but no imgtool.toml",
                hint="if it is a store, put the file back as imgtool-store(5) shows it",
            ) from None
        return Setup()
    fields = Fields(codec.load(data, layout.settings), layout.settings)
    form = fields.table("format")
    if form is None:
        raise fields.bad("format", "is missing")
    reads, writes = form.integer("read"), form.integer("write")
    if reads > FORMAT:
        raise FailedPrecondition(
            f"store '{layout.root}' has format {reads}, this imgtool reads up to {FORMAT}",
            hint="use a newer imgtool",
        )
    locking = fields.choice("locking", "flock", "none")
    sharing = fields.choice("sharing", "shared", "isolated")
    gc = fields.table("gc") or Fields({}, layout.settings)
    default = Settings()
    found = Settings(
        sharing=sharing,
        follow=gc.choice("follow", "graph", "labels"),
        deletion_threshold=gc.integer("deletion_threshold", default.deletion_threshold),
        mutation_threshold=gc.integer("mutation_threshold", default.mutation_threshold),
    )
    _check_places(fields, form, gc)
    return Setup(
        exists=True,
        read=reads,
        write=writes,
        locking=locking == "flock",
        settings=found,
        unknown=(*fields.left(), *form.left(), *gc.left()),
    )


def _check_places(top: Fields, form: Fields, gc: Fields) -> None:
    """A key below the wrong heading would count for nothing, unnoticed: TOML's trap for who appends a line.

    Raises:
        DataLoss: there is one.
    """
    for key in ("locking", "sharing"):
        for fields in (form, gc):
            if fields.has(key):
                raise fields.bad(key, "belongs above all tables")
    for key in Settings._fields[1:]:
        for fields in (top, form):
            if fields.has(key):
                raise fields.bad(key, "belongs into the table [gc]")


def create(layout: Layout, workspace: Workspace) -> None:
    """Make a store; one that another process made meanwhile is as good.

    Raises:
        FailedPrecondition: the directory holds something else, or its file system tells no upper
            from lower case, or has no hard links.
    """
    from imgtool.disk.workspace import is_workspace

    batch = atomic.Batch()
    batch.mkdirs(layout.root)
    others = sorted(set(read.entries(layout.root)) - _OURS - _CONTENT)
    # gc would remove it.
    others += [inside("tmp", name) for name in read.entries(layout.tmp) if not is_workspace(name)]
    if others and not os.path.exists(layout.settings):
        raise FailedPrecondition(
            f"'{layout.root}' is no store, and not empty: it holds '{others[0]}'",
            hint="give an empty or new directory as --root",
        )
    batch.mkdirs(layout.tmp)
    path = workspace.new_path() + "a"
    atomic.write_new(path, codec.dump({"format": {"read": FORMAT, "write": FORMAT}}, "imgtool.toml"))
    if os.path.exists(path[:-1] + "A"):
        raise FailedPrecondition(f"the file system of '{layout.root}' does not tell upper from lower case")
    atomic.sync_files([path])
    # Durable before imgtool.toml shows: whoever finds that takes the way to it for granted.
    for directory in _above(layout.root):
        batch.touched(directory)
    batch.sync()
    try:
        batch.link(path, layout.settings)
    except FileExistsError:
        return
    except ImgtoolError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _NO_HARD_LINKS:
            raise FailedPrecondition(f"the file system of '{layout.root}' has no hard links") from None
        raise
    batch.sync()


def _above(directory: str) -> Iterator[str]:
    """The directories that lead to `directory`, as far up as we may have made them."""
    device = os.stat(directory).st_dev
    while directory != "/" and os.access(directory := parent(directory), os.W_OK | os.R_OK):
        if os.stat(directory).st_dev != device:
            break
        yield directory


def check_file_system(root: str) -> None:
    """Refuse to write where flock is not reliable.

    Raises:
        FailedPrecondition: it is a network file system.
    """
    kind = _file_system(os.path.realpath(root))
    if kind in _NETWORK:
        raise FailedPrecondition(
            f"'{root}' is on a network file system ({kind}), where locks are not reliable",
            hint=HINT_NO_LOCKS,
        )


def _check_owner(root: str) -> None:
    if os.environ.get("IMGTOOL_TRUST_OWNER") == "1":
        return
    try:
        status = os.stat(root)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise from_oserror(error, "cannot open store") from error
    if not stat.S_ISDIR(status.st_mode):
        raise FailedPrecondition(f"store '{root}' is not a directory")
    reason = ""
    if status.st_uid != os.geteuid():
        reason = f"belongs to user {status.st_uid}, not to {os.geteuid()}"
    elif status.st_mode & stat.S_IWOTH:
        reason = "may be written by everybody"
    if reason:
        raise PermissionDenied(f"store '{root}' {reason}", hint="if you trust it, set IMGTOOL_TRUST_OWNER=1")


def _file_system(path: str) -> str:
    """The type of the file system that holds `path`; empty where the system does not tell."""
    import re

    best, kind, where = b"", b"", os.fsencode(path)
    try:
        with open(_MOUNTS, "rb") as table:
            for line in table:
                before, separator, after = line.partition(b" - ")
                if not separator:
                    continue
                # Blanks and the like are written as octal numbers.
                point = re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), before.split()[4])
                above = where == point or where.startswith(point.rstrip(b"/") + b"/")
                if above and len(point) >= len(best):
                    best, kind = point, after.split()[0]
    except (OSError, IndexError):
        return ""
    return kind.decode("ascii", "replace")
