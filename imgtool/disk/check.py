"""Look at every file of a store: is it what imgtool-store(5) says? Writes nothing and takes no lock.

What the documents in the objects say of each other is for `imgtool.ops.fsck`.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from imgtool.digest import Digest, new_hasher
from imgtool.disk import atomic, check_log, codec, ingests, log, read, settings
from imgtool.disk.engine import CONTENT, IMAGE, KINDS, LEASE, NAMESPACE, Kind
from imgtool.disk.layout import SUFFIX, Layout, base, ingest_key, inside, is_branch, is_record
from imgtool.errors import DataLoss, ImgtoolError, from_oserror
from imgtool.model import ContentInfo
from imgtool.names import check_namespace, name_of_file

ERROR = "error"
REMARK = "remark"

_LOOKS = 5
_BUFFER = 1 << 20
_PRIVATE = (atomic.PRIVATE_MODE,)
_PUBLISHED = (atomic.FILE_MODE,)


class Problem(NamedTuple):
    """Something that is not as it should be.

    `level`: ERROR where bytes are lost or cannot be read, REMARK where they are not. `kind`: `settings`,
    `object`, `namespace`, `image`, `content`, `lease`, `ingest`, `log`, `manifest`, `file` or `mode`.
    `name`: of the thing; of a file, its path below the store. `namespace`: empty where it has none.
    """

    level: str
    kind: str
    namespace: str
    name: str
    what: str


def settled(look: Callable[[], Sequence[Problem]], path: str = "") -> Sequence[Problem]:
    """What `look` finds every time it looks, until the file at `path`, if one is given, was the same
    before and after a look: others change the store meanwhile, and what is half gone only because it
    is being removed is no problem. Empty where the file changes all the time.
    """
    found = look()
    for _ in range(_LOOKS):
        if not found:
            break
        before = _identity(path)
        again = look()
        found = [problem for problem in found if problem in again]
        if _identity(path) == before:
            return found
    return []


def _identity(path: str) -> object:
    """What changes when the file is replaced or removed."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_ctime_ns


class Files:
    """The files of the store in `root`.

    Args:
        root: the directory; it need not exist.
        quick: do not hash the objects.
        progress: called with the number of bytes that were hashed.
    """

    def __init__(
        self, root: str, *, quick: bool = False, progress: Callable[[int], None] = lambda _: None
    ) -> None:
        self._layout = Layout(root)
        self._quick = quick
        self._progress = progress
        self._buffer = memoryview(bytearray(_BUFFER))

    def problems(self) -> Iterator[Problem]:
        """All that is wrong, settings first, then in the order of the paths.

        Raises:
            FailedPrecondition, PermissionDenied: the store must not be read, see `disk.open_store`.
        """
        layout = self._layout
        wrong = settled(self._settings, layout.settings)
        yield from wrong
        if not wrong and not os.path.lexists(layout.settings):
            return  # there is no store
        expected = (
            layout.settings,
            layout.objects,
            layout.namespaces,
            layout.ingests,
            layout.tmp,
            layout.locks,
            layout.cache,
        )
        for entry in read.entries(layout.root):
            if inside(layout.root, entry) not in expected:
                yield from self._stray(inside(layout.root, entry))
        yield from self._objects()
        yield from self._ingests()
        yield from self._locks()
        for directory in (layout.tmp, layout.cache):
            yield from self._scan(directory)[1]
        names, problems = self._scan(layout.namespaces)
        yield from problems
        for name in names:
            yield from self._namespace(name)

    def _settings(self) -> list[Problem]:
        path = self._layout.settings
        try:
            setup = settings.load(self._layout)
        except DataLoss as error:
            return [self._problem(ERROR, "settings", path, error)]
        if not os.path.lexists(path):
            return []
        problems = self._mode(path, os.lstat(path), _PUBLISHED)
        if not self._is_sealed(path):
            problems.append(self._problem(REMARK, "settings", path, "has no seal"))
        for key in setup.unknown:
            problems.append(
                self._problem(REMARK, "settings", path, f"the key '{key}' means nothing to this imgtool")
            )
        return problems

    # --- objects

    def _objects(self) -> Iterator[Problem]:
        for path, text in self._fan_out(self._layout.objects):
            if isinstance(text, Problem):
                yield text
                continue
            try:
                digest = Digest.parse(text)
            except ImgtoolError:
                yield from self._stray(path)
                continue
            yield from settled(partial(self._object, path, digest), path)

    def _object(self, path: str, digest: Digest) -> list[Problem]:
        try:
            fd, status = read.open_regular(path)
        except FileNotFoundError:
            return []
        except ImgtoolError as error:
            return [Problem(ERROR, "object", "", digest, self._text(error))]
        try:
            problems = self._mode(path, status, _PUBLISHED)
            if not self._quick and (found := self._hash(fd, digest.algorithm)) != digest:
                problems.append(Problem(ERROR, "object", "", digest, f"hashes to {found}"))
        except OSError as error:
            what = self._text(from_oserror(error, "cannot be read"))
            problems.append(Problem(ERROR, "object", "", digest, what))
        finally:
            os.close(fd)
        return problems

    def _hash(self, fd: int, algorithm: str) -> Digest:
        hasher = new_hasher(algorithm)
        while count := os.readv(fd, [self._buffer]):
            hasher.update(self._buffer[:count])
            self._progress(count)
        return Digest.from_hasher(algorithm, hasher)

    # --- namespaces

    def _namespace(self, ns: str) -> Iterator[Problem]:
        layout = self._layout
        directory = layout.namespace(ns)
        try:
            check_namespace(ns)
        except ImgtoolError:
            yield from self._stray(directory)
            return
        entries, problems = self._scan(directory)
        yield from problems
        expected = (
            layout.namespace_record(ns),
            layout.images(ns),
            layout.content(ns),
            layout.leases(ns),
            layout.log(ns),
        )
        for entry in entries:
            if inside(directory, entry) not in expected:
                yield from self._stray(inside(directory, entry))
        record = layout.namespace_record(ns)
        yield from self._settled_record(NAMESPACE, ns, record, ns)
        yield from settled(partial(self._without_record, ns), record)
        yield from self._flat(IMAGE, ns, layout.images(ns))
        yield from self._content(ns)
        yield from self._flat(LEASE, ns, layout.leases(ns))
        yield from settled(partial(self._log, ns))

    def _without_record(self, ns: str) -> list[Problem]:
        if os.path.lexists(self._layout.namespace_record(ns)):
            return []
        try:
            images = any(is_record(entry) for entry in read.entries(self._layout.images(ns)))
            content = any(True for _ in read.walk_fan_out(self._layout.content(ns)))
        except ImgtoolError:
            return []  # a directory that cannot be read is told of by itself
        if images or content:
            return [Problem(ERROR, "namespace", ns, ns, "has records but no namespace.toml")]
        return []

    def _flat(self, kind: Kind[Any], ns: str, directory: str) -> Iterator[Problem]:
        entries, problems = self._scan(directory)
        yield from problems
        for entry in entries:
            path = inside(directory, entry)
            if is_record(entry):
                yield from self._settled_record(kind, ns, path, name_of_file(entry[: -len(SUFFIX)]))
            else:
                yield from self._stray(path)

    def _content(self, ns: str) -> Iterator[Problem]:
        for path, text in self._fan_out(self._layout.content(ns)):
            if isinstance(text, Problem):
                yield text
            elif is_record(base(path)):
                yield from self._settled_record(CONTENT, ns, path, text[: -len(SUFFIX)])
            else:
                yield from self._stray(path)

    def _settled_record(self, kind: Kind[Any], ns: str, path: str, name: str | None) -> Sequence[Problem]:
        return settled(partial(self._record, kind, ns, path, name), path)

    def _record(self, kind: Kind[Any], ns: str, path: str, name: str | None) -> list[Problem]:
        """What is wrong with one record. `name`: by its file name, None where that is no name's."""
        try:
            data = read.read_regular(path, codec.RECORD_MAX)
            found = kind.load(codec.load(data, path), path)
            key = kind.key(found)
            if (name or key) != key or kind.path(self._layout, ns, key) != path:
                raise DataLoss(f"is of {kind.name} '{key}', whose file has another name")
            problems = self._mode(path, os.lstat(path), _PUBLISHED)
        except FileNotFoundError:
            return []
        except ImgtoolError as error:
            if name is None:
                return [self._problem(ERROR, kind.name, path, error)]
            return [Problem(ERROR, kind.name, ns, name, self._text(error))]
        name = kind.key(found)
        if not codec.is_sealed(data):
            problems.append(Problem(REMARK, kind.name, ns, name, "has no seal"))
        if isinstance(found, ContentInfo):
            problems += self._behind(ns, found)
        return problems

    def _behind(self, ns: str, info: ContentInfo) -> list[Problem]:
        """What is wrong with the size of the object behind a content record."""
        try:
            status = os.lstat(self._layout.object(info.digest))
        except (FileNotFoundError, NotADirectoryError):
            return [Problem(ERROR, "content", ns, info.digest, "its object is missing")]
        if not stat.S_ISREG(status.st_mode):
            return [Problem(ERROR, "content", ns, info.digest, "its object is not a file")]
        if status.st_size != info.size:
            what = f"its object has {status.st_size} bytes, expected {info.size}"
            return [Problem(ERROR, "content", ns, info.digest, what)]
        return []

    # --- logs

    def _log(self, ns: str) -> list[Problem]:
        path = self._layout.log(ns)
        try:
            fd, status = read.open_regular(path)
        except FileNotFoundError:
            return []
        except ImgtoolError as error:
            return [self._problem(ERROR, "log", path, error)]
        with open(fd, "rb") as file:
            wrong, told = check_log.judge(file)
        problems = self._mode(path, status, (*_PRIVATE, log.GAP_MODE))
        if log.has_gap(path):
            what = "does not tell of all that was removed: the disk was full; the next gc looks at everything"
            problems.append(self._problem(REMARK, "log", path, what))
        problems += [self._problem(ERROR, "log", path, what) for what in wrong.errors]
        problems += [self._problem(REMARK, "log", path, what) for what in wrong.remarks]
        for kind, name in told:
            try:
                record = KINDS[kind].path(self._layout, ns, name)
            except (KeyError, ImgtoolError, UnicodeError):
                continue
            if not os.path.lexists(record):
                what = "has no record, though the log does not tell that it was removed"
                problems.append(Problem(REMARK, kind, ns, name, what))
        return problems

    # --- what is under way

    def _ingests(self) -> Iterator[Problem]:
        keys, problems = self._scan(self._layout.ingests)
        yield from problems
        for key in keys:
            directory = inside(self._layout.ingests, key)
            if not re.fullmatch(r"[0-9a-f]{64}", key, re.ASCII):
                yield from self._stray(directory)
                continue
            entries, problems = self._scan(directory, or_stray=True)
            yield from problems
            for entry in entries:
                if entry not in ("ref.toml", "data", "lock"):
                    yield from self._stray(inside(directory, entry))
            record = inside(directory, "ref.toml")
            yield from settled(partial(self._ingest, key, record), record)

    def _ingest(self, key: str, record: str) -> list[Problem]:
        try:
            found = ingests.read_status(inside(self._layout.ingests, key))
        except DataLoss as error:
            return [self._problem(ERROR, "ingest", record, error)]
        if found is None:
            return []
        ns, status = found
        if ingest_key(ns, status.ref) != key:
            what = f"is of ingest '{status.ref}' of namespace '{ns}', whose directory has another name"
            return [self._problem(ERROR, "ingest", record, what)]
        if not self._is_sealed(record):
            return [Problem(REMARK, "ingest", ns, status.ref, "has no seal")]
        return []

    def _locks(self) -> Iterator[Problem]:
        entries, problems = self._scan(self._layout.locks)
        yield from problems
        for entry in entries:
            if entry not in ("gate", "store") and not entry.startswith("ns-"):
                yield from self._stray(inside(self._layout.locks, entry))

    # --- any file

    def _scan(self, directory: str, *, or_stray: bool = False) -> tuple[list[str], list[Problem]]:
        """The names in a directory, and what is wrong with it.

        Args:
            or_stray: what lies there may be no part of the store; then it is, if it is no directory.
        """
        try:
            status = os.lstat(directory)
            if stat.S_ISLNK(status.st_mode) or not (stat.S_ISDIR(status.st_mode) or or_stray):
                kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "a file"
                return [], [self._problem(ERROR, "file", directory, f"is {kind}, expected a directory")]
            if not stat.S_ISDIR(status.st_mode):
                return [], self._stray(directory)
            return read.entries(directory), self._mode(directory, status, (atomic.DIRECTORY_MODE,))
        except FileNotFoundError:
            return [], []
        except (OSError, ImgtoolError) as error:
            failure = from_oserror(error, "cannot list") if isinstance(error, OSError) else error
            return [], [self._problem(ERROR, "file", directory, failure)]

    def _fan_out(self, directory: str) -> Iterator[tuple[str, str | Problem]]:
        """As `read.walk_fan_out`, with what is wrong with the directories between the pairs."""
        algorithms, problems = self._scan(directory)
        yield from ((directory, problem) for problem in problems)
        for algorithm in algorithms:
            above = inside(directory, algorithm)
            prefixes, problems = self._scan(above, or_stray=not is_branch(algorithm))
            yield from ((above, problem) for problem in problems)
            for prefix in prefixes:
                deep = inside(above, prefix)
                rests, problems = self._scan(deep, or_stray=not is_branch(prefix))
                yield from ((deep, problem) for problem in problems)
                yield from ((inside(deep, rest), f"{algorithm}:{prefix}{rest}") for rest in rests)

    def _stray(self, path: str) -> list[Problem]:
        what = "is not part of a store; imgtool leaves it alone"
        return [self._problem(REMARK, "file", path, what)] if os.path.lexists(path) else []

    def _mode(self, path: str, status: os.stat_result, expected: tuple[int, ...]) -> list[Problem]:
        mode = stat.S_IMODE(status.st_mode)
        if mode in expected:
            return []
        return [self._problem(REMARK, "mode", path, f"is {mode:04o}, expected {expected[0]:04o}")]

    def _is_sealed(self, path: str) -> bool:
        """Whether a record is; one that has vanished counts as sealed."""
        try:
            return codec.is_sealed(read.read_regular(path, codec.RECORD_MAX))
        except FileNotFoundError:
            return True

    def _problem(self, level: str, kind: str, path: str, what: str | ImgtoolError) -> Problem:
        """A problem that is named by a path."""
        text = what if isinstance(what, str) else self._text(what)
        return Problem(level, kind, "", self._below(path), text)

    def _below(self, path: str) -> str:
        return path[len(self._layout.root) + 1 :]

    def _text(self, error: ImgtoolError) -> str:
        """The message, with paths as seen from the store."""
        root = self._layout.root
        return error.message.replace(f"{root}/", "").replace(f"'{root}'", "the store")
