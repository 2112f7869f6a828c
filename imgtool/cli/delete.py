"""What gc would free once images are deleted: a dry run tells it beside their names."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from imgtool.cli.output import size_text
from imgtool.errors import DataLoss

if TYPE_CHECKING:
    from imgtool.cli.context import Context
    from imgtool.model import Image
    from imgtool.stores import Garbage


class Freed:
    """Collects the images that would be deleted, then looks at the store, without and with them."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._images: list[tuple[str, str]] = []

    def by(self, image: Image) -> Image:
        """Count `image` as deleted; returns it."""
        self._images.append((self._context.namespace, image.name))
        return image

    def told(self) -> dict[str, Any]:
        """For JSON, under `gc`: the bytes that it `frees` then, and those of them that are `garbage` now
        already. None where something cannot be read: then gc frees nothing, and a warning says why.
        """
        return {"gc": self._sizes and dict(zip(("frees", "garbage"), self._sizes, strict=True))}

    def say(self) -> None:
        """Tell a person, unless JSON has told, or no image would be deleted."""
        c = self._context
        if c.quiet or c.format == "json" or not self._images or self._sizes is None:
            return
        frees, garbage = self._sizes
        already = f", of which {size_text(garbage)} are garbage already" if garbage else ""
        c.say(f"gc would then free {size_text(frees)}{already}")

    @cached_property
    def _sizes(self) -> tuple[int, int] | None:
        from imgtool.ops.gc import find

        store = self._context.store()
        with store.remembering():
            try:
                frees = _size(find(store, without=self._images))
            except DataLoss as error:
                self._context.failures.warn(f"gc would then free nothing: {error.message}", hint=error.hint)
                return None
            try:
                return frees, _size(find(store))
            except DataLoss:  # of what would be deleted: until then gc frees nothing
                return frees, 0


def _size(garbage: Garbage) -> int:
    return sum(garbage.objects.values()) + sum(item.size for item in garbage.litter)
