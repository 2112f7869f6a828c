"""The images of a namespace, one record a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, cast

from imgtool import clock
from imgtool.digest import Digest
from imgtool.disk.engine import CONTENT, IMAGE, LEASE, Edit, Engine
from imgtool.errors import AlreadyExists, InvalidArgument
from imgtool.fieldpaths import merge_image
from imgtool.model import Image, Target, check_image, replace
from imgtool.names import check_name

if TYPE_CHECKING:
    from imgtool.stores import OnError, Put


class DiskImages:
    """ImageStore on files; see `imgtool.stores`."""

    def __init__(self, engine: Engine, namespace: str) -> None:
        self._engine = engine
        self._ns = namespace

    def get(self, name: str) -> Image:
        return _expected(self._engine.load(IMAGE, self._ns, check_name(name)), name)

    def names(self, *, on_error: OnError = None) -> list[str]:
        directory = self._engine.layout.images(self._ns)
        return [name for name, _ in self._engine.named(IMAGE, directory, on_error)]

    def list(self, *filters: str, on_error: OnError = None) -> Iterator[Image]:
        images = self._engine.scan(IMAGE, self._ns, self._engine.layout.images(self._ns), on_error)
        if not filters:
            yield from images
            return
        from imgtool.filters import compile, image_fields

        matches = compile(filters).matches
        yield from (image for image in images if matches(image_fields(image)))

    def targets(self, *, on_error: OnError = None) -> Mapping[str, Target]:
        return self._engine.targets(self._ns, on_error)

    def create(self, image: Image, *, needs: Iterable[Digest] = ()) -> Image:
        image = check_image(image)
        needed = tuple(needs)

        def change(old: Image | None) -> Image:
            if old is not None:
                raise AlreadyExists(f"image '{image.name}' already exists")
            require(self._engine, self._ns, needed)
            now = clock.now()
            return replace(image, created=now, updated=now)

        return self._changed(image.name, change)

    def update(
        self, image: Image, *paths: str, if_target: Digest | None = None, needs: Iterable[Digest] = ()
    ) -> Image:
        name = check_name(image.name)
        needed = tuple(needs)

        def change(old: Image | None) -> Image:
            old = _expected(old, name, if_target)
            new = check_image(merge_image(old, image, paths))
            require(self._engine, self._ns, needed)
            return replace(new, updated=clock.now())

        return self._changed(name, change)

    def rename(self, name: str, new: str, *, if_target: Digest | None = None) -> Image:
        from imgtool.rules import renamed

        check_name(name)
        check_name(new, "new image name")
        if name == new:
            raise InvalidArgument(f"image '{name}' cannot be renamed to itself")
        if not self._engine.exists():
            _expected(None, name)

        def arrive(there: Image | None) -> Image:
            return renamed(name, new, self._engine.load(IMAGE, self._ns, name), there, if_target)

        edits = [Edit(IMAGE, new, arrive), Edit(IMAGE, name, lambda old: None)]
        image, _ = self._engine.apply(self._ns, edits)
        return cast(Image, image)

    def delete(
        self, name: str, *, target: Digest | None = None, seen: Image | None = None, unless_held: bool = False
    ) -> Image:
        from imgtool.rules import check_seen, check_unheld

        self.get(name)
        deleted: list[Image] = []

        def change(old: Image | None) -> None:
            there = _expected(old, name, target)
            check_seen(there, seen)
            if unless_held:
                leases = self._engine.layout.leases(self._ns)
                check_unheld(name, self._engine.scan(LEASE, self._ns, leases, None))
            deleted.append(there)

        self._engine.change(self._ns, Edit(IMAGE, name, change))
        return deleted[0]

    def _changed(self, name: str, change: Callable[[Image | None], Image]) -> Image:
        image = self._engine.change(self._ns, Edit(IMAGE, name, change))
        assert image is not None
        return image


def put(engine: Engine, ns: str, put: Put, arriving: frozenset[Digest]) -> Edit[Image]:
    """The edit that publishes an image, by the rules of `stores.Put`.

    Args:
        arriving: digests that the same step publishes, and which therefore are not looked for.
    """
    put = replace(put, image=check_image(put.image))

    def change(old: Image | None) -> Image:
        new = put.over(old)
        if new is old:
            return new
        require(engine, ns, put.needs - arriving)
        now = clock.now()
        return replace(new, created=now if old is None else old.created, updated=now)

    return Edit(IMAGE, put.image.name, change, alone=True)


def require(engine: Engine, ns: str, digests: Iterable[Digest]) -> None:
    """See `rules.check_needs`."""
    from imgtool.rules import check_needs

    check_needs(digests, ns, partial(engine.load, CONTENT, ns), engine.object_size)


def _expected(there: Image | None, name: str, target: Digest | None = None) -> Image:
    """See `rules.expected`."""
    from imgtool.rules import expected

    return expected(there, name, target)
