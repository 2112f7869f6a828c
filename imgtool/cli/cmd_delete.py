"""`imgtool delete`: image records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgtool.cli import options as o
from imgtool.cli.context import Context
from imgtool.cli.words import digest_or_none

if TYPE_CHECKING:
    from imgtool.digest import Digest
    from imgtool.model import Image


def run(
    c: Context,
    names: o.Names,
    filters: o.Filters,
    all: o.All = False,
    zero: o.Zero = False,
    if_digest: o.IfDigest = None,
    ignore_missing: o.IgnoreMissing = False,
    sync: o.Sync = False,
    dry_run: o.DryRun = False,
) -> None:
    """Delete images, and print their names. Their content stays until gc: --dry-run tells what that would
    free then.
    """
    from imgtool.cli import gc
    from imgtool.cli import images as view
    from imgtool.cli.delete import Freed
    from imgtool.errors import NotFound

    images = c.records(dry_run=dry_run).images(c.namespace)
    expected = digest_or_none(if_digest)
    freed = Freed(c)

    def delete(choice: tuple[str, Digest | None]) -> Image:
        name, seen = choice
        return freed.by(images.delete(name, target=expected or seen))

    deleted = c.failures.for_each(
        view.selected(c, images, names, filters, all, zero),
        delete,
        ignore=NotFound if ignore_missing else None,
    )
    c.out.rows(
        view.IMAGES,
        (view.row(c.namespace, image) for image in deleted),
        view.NAME_ONLY,
        zero=zero,
        header=False,
        more=freed.told if dry_run else dict,
    )
    if dry_run:
        freed.say()
    gc.after(c, sync=sync, dry_run=dry_run)
