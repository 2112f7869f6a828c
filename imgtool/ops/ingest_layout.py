"""Stage the images of a layout's directory: judged first, and only what is needed is read."""

from __future__ import annotations

import os
from collections.abc import Callable

from imgtool.errors import FailedPrecondition
from imgtool.model import Descriptor
from imgtool.oci import descriptor
from imgtool.oci.layout import Layout
from imgtool.ops.ingest_images import Land, stage_images
from imgtool.ops.sources import Source
from imgtool.ops.staging import Staged, Wanted, copy
from imgtool.stores import Ingester, Writer


def stage_layout(
    content: Ingester, source: Source, wanted: Wanted, progress: Callable[[int], None], land: Land
) -> Staged:
    """Stage the images of an OCI image layout.

    Raises:
        InvalidArgument: it is no layout; and as `stage_images`.
        NotFound: no such directory; and as `stage_images`.
    """
    with LayoutBundle(source.path, content, progress) as bundle:
        return stage_images(bundle, source, wanted, land)


class LayoutBundle(Layout):
    """A layout whose content is copied when it is taken."""

    def __init__(self, path: str, content: Ingester, progress: Callable[[int], None]) -> None:
        super().__init__(path)
        self._content = content
        self._progress = progress

    def take(self, wanted: Descriptor) -> Writer:
        """See `ingest_images.Bundle`."""
        writer = self._content.stage(algorithm=wanted.digest.algorithm)
        try:
            inline = descriptor.inline(wanted)
            if inline is not None:
                self._progress(writer.write(inline))
            else:
                self._copy(wanted, writer)
            found = writer.digest()
            if found != wanted.digest:
                raise FailedPrecondition(
                    f"content {wanted.digest} in '{self.path}' hashes to {found}",
                    hint="the layout is damaged; copy the image again",
                )
            writer.finish()
        except BaseException:
            writer.close()
            raise
        return writer

    def _copy(self, wanted: Descriptor, writer: Writer) -> None:
        fd = self.open_blob(wanted.digest, wanted.size)
        try:
            copy(writer, fd, self._progress, wanted.size)
        finally:
            os.close(fd)
