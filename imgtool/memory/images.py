"""The images of a namespace."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from imgtool import clock, filters
from imgtool.digest import Digest
from imgtool.errors import AlreadyExists, InvalidArgument
from imgtool.fieldpaths import merge_image
from imgtool.memory.space import Bound, matching
from imgtool.model import Image, Target, check_image, replace
from imgtool.names import check_name, for_gc
from imgtool.rules import check_needs, check_seen, check_target, check_unheld, expected, renamed
from imgtool.stores import OnError


class MemoryImages(Bound):
    kind = "image"

    def get(self, name: str) -> Image:
        return expected(self._space.images.get(check_name(name)), name)

    def names(self, *, on_error: OnError = None) -> list[str]:
        return sorted(self._space.images)

    def create(self, image: Image, *, needs: Iterable[Digest] = ()) -> Image:
        image = check_image(image)
        if image.name in self._space.images:
            raise AlreadyExists(f"image '{image.name}' already exists")
        self._need(needs)
        now = clock.now()
        return self._write(replace(image, created=now, updated=now))

    def update(
        self, image: Image, *paths: str, if_target: Digest | None = None, needs: Iterable[Digest] = ()
    ) -> Image:
        old = self.get(image.name)
        check_target(old, if_target)
        new = check_image(merge_image(old, image, paths))
        self._need(needs)
        return self._write(replace(new, updated=clock.now()))

    def rename(self, name: str, new: str, *, if_target: Digest | None = None) -> Image:
        images = self._space.images
        old, there = images.get(check_name(name)), images.get(check_name(new, "new image name"))
        if name == new:
            raise InvalidArgument(f"image '{name}' cannot be renamed to itself")
        image = renamed(name, new, old, there, if_target)
        self._write(image)
        self._tell(name, images.pop(name, None), None)
        return image

    def delete(
        self, name: str, *, target: Digest | None = None, seen: Image | None = None, unless_held: bool = False
    ) -> Image:
        image = self.get(name)
        check_target(image, target)
        check_seen(image, seen)
        if unless_held:
            check_unheld(name, self._space.leases.values())
        self._tell(name, self._space.images.pop(name), None)
        return image

    def targets(self, *, on_error: OnError = None) -> Mapping[str, Target]:
        return {
            image.name: Target(image.target.digest, image.target.media_type, for_gc(image.labels))
            for image in self.list(on_error=on_error)
        }

    def list(self, *filters_: str, on_error: OnError = None) -> Iterator[Image]:
        return matching(self._space.images, filters.image_fields, filters_)

    def _write(self, image: Image) -> Image:
        images = self._store.appear(self._namespace).images
        old, images[image.name] = images.get(image.name), image
        self._tell(image.name, old, image)
        return image

    def _need(self, digests: Iterable[Digest]) -> None:
        check_needs(digests, self._namespace, self._space.content.get, self._store.object_size)
