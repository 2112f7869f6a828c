"""The images of a namespace, one record a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from imgtool import clock
from imgtool.digest import Digest
from imgtool.disk.engine import IMAGE, Edit, Engine
from imgtool.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from imgtool.fieldpaths import merge_image
from imgtool.model import Image, check_image, replace
from imgtool.names import check_name

if TYPE_CHECKING:
    from imgtool.stores import OnError, Put


class DiskImages:
    """ImageStore on files; see `imgtool.stores`."""

    def __init__(self, engine: Engine, namespace: str) -> None:
        self._engine = engine
        self._ns = namespace

    def get(self, name: str) -> Image:
        image = self._engine.load(IMAGE, self._ns, check_name(name))
        if image is None:
            raise not_found(name)
        return image

    def names(self) -> list[str]:
        directory = self._engine.layout.images(self._ns)
        return [name for name, _ in self._engine.named(IMAGE, directory, lambda _: None)]

    def list(self, *filters: str, on_error: OnError = None) -> Iterator[Image]:
        images = self._engine.scan(IMAGE, self._ns, self._engine.layout.images(self._ns), on_error)
        if not filters:
            yield from images
            return
        from imgtool.filters import compile, image_fields

        matches = compile(filters).matches
        yield from (image for image in images if matches(image_fields(image)))

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
        check_name(name)
        check_name(new, "new image name")
        if name == new:
            raise InvalidArgument(f"image '{name}' cannot be renamed to itself")
        moved: list[Image] = []

        def arrive(there: Image | None) -> Image:
            old = self._engine.load(IMAGE, self._ns, name)
            if old is None and there is not None and if_target in (None, there.target.digest):
                moved.append(there)
                return there
            old = _expected(old, name, if_target)
            moved.append(old)
            if there is None:
                return replace(old, name=new, updated=clock.now())
            if there.target.digest != old.target.digest:
                raise AlreadyExists(f"image '{new}' already exists, with target {there.target.digest}")
            return there

        image = self._changed(new, arrive)

        def leave(old: Image | None) -> Image | None:
            # Another client may have moved the old name meanwhile; what it points to now is not ours to drop.
            return None if old is None or old.target.digest == moved[0].target.digest else old

        self._engine.change(self._ns, Edit(IMAGE, name, leave))
        return image

    def delete(self, name: str, *, target: Digest | None = None) -> Image:
        check_name(name)
        deleted: list[Image] = []
        if self._engine.load(IMAGE, self._ns, name) is None:
            raise not_found(name)

        def change(old: Image | None) -> None:
            deleted.append(_expected(old, name, target))

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
    """
    Raises:
        NotFound: one of `digests` has no record here, or no whole object.
    """
    for digest in digests:
        if not engine.is_whole(ns, digest):
            raise NotFound(f"content '{digest}' not found in namespace '{ns}'")


def not_found(name: str) -> NotFound:
    return NotFound(f"image '{name}' not found")


def _expected(old: Image | None, name: str, target: Digest | None) -> Image:
    if old is None:
        raise not_found(name)
    if target is not None and old.target.digest != target:
        raise FailedPrecondition(f"image '{name}' has target {old.target.digest}, expected {target}")
    return old
