"""What gc remembers of directories: from one look to the next, and in `cache/` from one gc to the next.

A directory is read again only if its inode, size, mtime or ctime is another: writers stamp the
directories of records, and objects come by rename and go by unlink. What is remembered was right when it
was read: seals fitted, sizes were those of the files; without what gc itself has removed since. In
`cache/` is what lies in the fan-out, content records and objects. Images and leases, from which gc starts,
are never in there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from imgtool import clock, workers
from imgtool.digest import Digest
from imgtool.disk import cache, read
from imgtool.disk.layout import SUFFIX, inside
from imgtool.errors import ImgtoolError, InvalidArgument
from imgtool.model import Referred
from imgtool.stores import Inventory

if TYPE_CHECKING:
    from imgtool.disk.layout import Layout
    from imgtool.disk.workspace import Workspace

R = TypeVar("R")
Start = str
"""How the digests in a directory begin."""
Columns = list[Any]
"""What a directory of the fan-out holds: the digests without how they begin, joined; their sizes; then what
else there is of them.
"""
Look = Callable[[str, Start, Sequence[str]], tuple[Columns, bool]]
"""Returns what there is in a directory, of which the names are given, and whether that is everything."""
Thaw = Callable[[dict[Digest, int], Columns], Any]
"""Makes what was looked for of digests with their sizes, and the other columns."""
Usual = tuple[str, str, str, dict[str, str]]
"""What `plain.target` returns."""

_CACHE = "gc-content"
_MANY = 60  # directories, or parts of the images, which are worth a process of their own

_Seen = tuple[Columns, read.Identity, bool]
"""As `read.Seen`, but for marshal."""
_NOTHING: _Seen = [], (), False


class _Kept(NamedTuple):
    """What a directory held, and for later the same in columns."""

    identity: read.Identity
    found: Any
    columns: Columns


class Images(NamedTuple):
    """The records of images in a directory, as gc read them; by the names of their files.

    `since` is the wall clock before that, nanoseconds. While the directory has `identity` nothing is
    different; where that is empty it says nothing. `usual` is what was read, of most.
    """

    since: int
    identity: read.Identity
    inodes: Mapping[str, int]
    usual: dict[str, Usual]


class Remembered:
    """What directories held when they were read, by their paths below the root of the store. Only what can be
    told to be so still is remembered, see `read.is_settled`.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.images: dict[str, Images] = {}
        """By their directory."""
        self._for_now: dict[tuple[str, str], _Kept] = {}
        self._seen: dict[str, _Kept] = {}  # for later too
        self._ahead: dict[str, _Seen] | None = None
        self._thawed: dict[Start, tuple[str, list[int], dict[Digest, int]]] = {}
        self._new = 0
        self._less: dict[str, tuple[read.Identity, AbstractSet[str]]] = {}  # since it was seen

    @cached_property
    def _kept(self) -> dict[str, tuple[read.Identity, Columns]]:
        """What the last gc kept."""
        with suppress(AttributeError, TypeError, ValueError, LookupError):
            sizes, directories = cache.load(self._layout, _CACHE)
            return {
                key: (tuple(identity), [*sizes[n], *others])
                for key, (identity, n, *others) in directories.items()
            }
        return {}

    def for_now(self, directory: str, what: str, look: Callable[[], tuple[Any, bool]]) -> Any:
        """What `look` finds in `directory`, which is asked only if the directory has changed. It is
        forgotten at the end of this gc.

        Args:
            what: it is that `look` finds there.
            look: returns also whether it has found everything.
        """
        seen = self._for_now.get((directory, what))
        if seen and seen.identity == read.identity(directory):
            return seen.found
        looked = read.steadily(directory, look)
        if looked.is_steady:
            self._for_now[directory, what] = _Kept(looked.identity, looked.found, [])
        return looked.found

    def for_later(self, directory: str, start: Start, look: Look, thaw: Thaw) -> Any:
        """As `for_now`, of a directory of the fan-out, and it is remembered for the next gc too. Returned is
        what `thaw` makes of it.
        """
        key, identity = self._key(directory), read.identity(directory)
        seen = self._seen.get(key)
        if seen and seen.identity == identity:
            return seen.found
        columns, before, is_steady = self._ahead.pop(key, _NOTHING) if self._ahead else _NOTHING
        if identity and before == identity:
            self._new += is_steady
            return self._thaw(key, start, thaw, identity if is_steady else (), columns)
        before, columns = self._kept.pop(key, ((), []))
        if identity and before == identity:
            with suppress(AttributeError, TypeError, ValueError, LookupError, InvalidArgument):
                return self._thaw(key, start, thaw, identity, columns)
        looked = _looked(directory, start, look)
        self._new += looked.is_steady
        return self._thaw(key, start, thaw, looked.identity if looked.is_steady else (), looked.found)

    def _thaw(self, key: str, start: Start, thaw: Thaw, identity: read.Identity, columns: Columns) -> Any:
        """
        Args:
            identity: of the directory; none if it is not to be remembered.
        """
        rests, sizes, *others = columns
        # Most directories of objects hold what the one of records does.
        known = self._thawed.get(start)
        if known is None or known[:2] != (rests, sizes):
            known = self._thawed[start] = rests, sizes, sized(start, rests, sizes)
        found = thaw(known[2], others)
        if identity:
            self._seen[key] = _Kept(identity, found, columns)
        return found

    def may_read_ahead(self) -> bool:
        """Whether that pays, and was not done: at a second look little is different."""
        return self._ahead is None and workers.processes() > 1

    def read_ahead(
        self, looks: Sequence[tuple[str, Start, Look]], parts: Sequence[Callable[[], R]]
    ) -> Sequence[R]:
        """Have what `for_later` is going to be asked looked at by several processes, if it is much; and
        `parts` of other work done beside. Returns what these return, which marshal can hold; nothing if
        nothing was done.
        """
        self._ahead = {}
        new = [look for look in looks if not self._has(look[0])]
        tasks: list[Callable[[], Any]] = [*(partial(_look_ahead, *look) for look in new), *parts]
        if len(tasks) < 2 * _MANY:
            return []
        results: list[Any] = [None] * len(tasks)
        for done in workers.share(_done, [*enumerate(tasks)], _MANY):
            for n, result in done:
                results[n] = result
        for (directory, _, _), seen in zip(new, results, strict=False):
            if seen:
                self._ahead[self._key(directory)] = seen
        return results[len(new) :]

    def seen(self, directory: str) -> Any:
        """What `directory` held when it was read for later; None where it was not, or has changed since."""
        seen = self._seen.get(self._key(directory))
        return seen.found if seen and seen.identity == read.identity(directory) else None

    def count(self, directory: str) -> int:
        """How many records or objects a directory of the fan-out held when it was seen."""
        return len(self._seen[self._key(directory)].columns[1])

    def _has(self, directory: str) -> bool:
        key = self._key(directory)
        seen, kept = self._seen.get(key), self._kept.get(key)
        known = [*([seen.identity] if seen else []), *([kept[0]] if kept else [])]
        return bool(known) and read.identity(directory) in known

    def _key(self, directory: str) -> str:
        return directory[len(self._layout.root) + 1 :]

    def forget_ahead(self) -> None:
        """All has been asked for: what was read ahead and not asked for is not believed any more."""
        self._ahead = {}

    def unchanged(self, directories: Iterable[str]) -> set[str]:
        """Those of the fan-out that are as they were seen."""
        seen = {directory: self._seen.get(self._key(directory)) for directory in directories}
        return {each for each, was in seen.items() if was and was.identity == read.identity(each)}

    def removed(self, directory: str, rests: AbstractSet[str]) -> None:
        """Tell that a directory of the fan-out is as it was seen, but without `rests`, and is stamped."""
        now, identity = clock.wall(), read.identity(directory)
        if identity and read.is_settled(identity, now):
            self._less[self._key(directory)] = identity, rests
            self._new += 1

    def keep(self, workspace: Workspace) -> None:
        """Put all that was asked for into `cache/`, if much of it is not there yet."""
        if cache.is_worth(self._new, len(self._seen)):
            self._save(workspace)

    def _holds(self, key: str, identity: read.Identity, columns: Columns) -> bool:
        """Whether that is what a directory has, from which something was removed: a stamp hides what else was
        done there just before, by who takes no lock.
        """
        with suppress(ImgtoolError):
            listed = read.listed(inside(self._layout.root, key))
            names = {name.removesuffix(SUFFIX) for name in listed.found}
            return listed.identity == identity and names == set(columns[0].split())
        return False

    def _save(self, workspace: Workspace) -> None:
        sizes: dict[str, tuple[int, list[int]]] = {}  # by the digests
        directories = {}
        for key, seen in self._seen.items():
            identity, columns = seen.identity, seen.columns
            if key in self._less:
                identity, gone = self._less[key]
                columns = _without(columns, gone)
                if not self._holds(key, identity, columns):
                    continue
            rests, own, *others = columns
            n, known = sizes.setdefault(rests, (len(sizes), own))
            if known != own:
                continue  # an object that is not as its record says: let the next gc look
            directories[key] = [identity, n, *others]
        pairs = [(rests, own) for rests, (_, own) in sizes.items()]
        cache.save(self._layout, workspace, _CACHE, [pairs, directories])


def _done(tasks: Sequence[tuple[int, Callable[[], Any]]]) -> list[tuple[int, Any]]:
    return [(n, task()) for n, task in tasks]


def _look_ahead(directory: str, start: Start, look: Look) -> _Seen | None:
    """What there is, if it was whole and did not change meanwhile."""
    with suppress(ImgtoolError):  # is told by who looks again
        columns, identity, is_steady = _looked(directory, start, look)
        if identity:
            return columns, identity, is_steady
    return None


def _looked(directory: str, start: Start, look: Look) -> read.Seen[Columns]:
    names, before, is_steady = read.branch(directory)
    columns, is_whole = look(directory, start, names)
    if not (is_whole and before and read.identity(directory) == before):
        return read.Seen(columns, (), False)
    return read.Seen(columns, before, is_steady)


def sized(start: Start, rests: str, sizes: Sequence[int]) -> dict[Digest, int]:
    """The digests and sizes in two columns."""
    return dict(zip([Digest(start + rest) for rest in rests.split()], sizes, strict=True))


def _without(columns: Columns, gone: AbstractSet[str]) -> Columns:
    """What is left in a directory of the fan-out."""
    rests, sizes, *others = columns
    names = rests.split()
    left = [n for n, name in enumerate(names) if name not in gone]
    new: Columns = [" ".join([names[n] for n in left]), [sizes[n] for n in left]]
    if others:  # of records, see `thaw_records`
        labels, forms, references = others
        place = {n: at for at, n in enumerate(left)}
        new.append([(place[n], of) for n, of in labels if n in place])
        new.append(forms)
        new.append([(place[n], *told) for n, *told in references if n in place])
    return new


def thaw_objects(sizes: dict[Digest, int], columns: Columns) -> dict[Digest, int]:
    () = columns
    return sizes


def thaw_records(sizes: dict[Digest, int], columns: Columns) -> Inventory:
    labels, forms, references = columns
    digests = [*sizes]
    types = [(own, tuple(others)) for own, *others in forms]
    return Inventory(
        sizes,
        {digests[n]: of for n, of in labels},
        {
            digests[n]: Referred(
                types[form][0], children, types[form][1], subject and Digest(subject), labelled
            )
            for n, form, children, subject, labelled in references
        },
    )
