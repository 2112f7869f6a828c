"""Images: the store, the gc scheduler and the publisher of events, joined."""

from __future__ import annotations

from collections.abc import Sequence

from imgtool.digest import Digest
from imgtool.errors import NotFound
from imgtool.model import Image
from imgtool.names import EXPIRE
from imgtool.serve.contracts import Open, Publisher, Scheduler


class LocalImages:
    """See `stores.ImageStore` for errors and the meaning of `paths`."""

    def __init__(self, open: Open, gc: Scheduler, events: Publisher) -> None:
        self._open = open
        self._gc = gc
        self._events = events

    def get(self, namespace: str, name: str) -> Image:
        with self._open() as store:
            return store.images(namespace).get(name)

    def list(self, namespace: str, filters: Sequence[str]) -> Sequence[Image]:
        """
        Raises:
            DataLoss: a record cannot be read. Without it the list would be taken for whole.
        """
        with self._open() as store:
            return list(store.images(namespace).list(*filters))

    def create(self, namespace: str, image: Image, lease: str | None) -> Image:
        """Add an image. One that can expire is held by `lease` too.

        Raises:
            NotFound: there is no such lease.
        """
        with self._open() as store:
            holder = lease if EXPIRE in image.labels else None
            if holder is not None:
                store.leases(namespace).get(holder)
            created = store.images(namespace).create(image)
            if holder is not None:
                store.leases(namespace).add(holder, "images", image.name)
        self._events.changed(namespace)
        return created

    def update(self, namespace: str, image: Image, paths: Sequence[str]) -> Image:
        with self._open() as store:
            updated = store.images(namespace).update(image, *paths)
        self._events.changed(namespace)
        return updated

    def delete(self, namespace: str, name: str, *, target: str | None = None, sync: bool = False) -> None:
        """
        Args:
            namespace: where the image is.
            name: the image.
            target: delete it only if it points to this digest.
            sync: return after a whole gc.

        Raises:
            NotFound: no such image, or it points to another digest.
        """
        with self._open() as store:
            images = store.images(namespace)
            if target is None:
                images.delete(name)
            elif images.get(name).target.digest != target:
                raise NotFound(f"image '{name}' with target {target}")
            else:
                images.delete(name, target=Digest.parse(target))
        self._events.changed(namespace)
        if sync:
            self._gc.collect()
