"""`imgtool label`: the labels of one image, as `ctr images label`."""

from __future__ import annotations

from imgtool.cli import options as o
from imgtool.cli.context import Context
from imgtool.cli.words import digest_or_none, label_paths


def run(
    c: Context,
    name: o.Name,
    labels: o.LabelArguments,
    replace_all: o.ReplaceAll = False,
    if_digest: o.IfDigest = None,
    dry_run: o.DryRun = False,
) -> None:
    """Set and remove labels of an image, and print all that it has then."""
    from imgtool.cli import images as view
    from imgtool.cli.changes import expect
    from imgtool.clock import now
    from imgtool.fieldpaths import merge_image
    from imgtool.model import check_image, replace

    c.out.check(view.IMAGES)
    paths, new = label_paths(labels, replace_all)
    images, expected = c.store().images(c.namespace), digest_or_none(if_digest)
    image = replace(images.get(name), labels=new)
    if dry_run:
        image = check_image(merge_image(expect(images.get(name), expected), image, paths))
        image = replace(image, updated=now())
    else:
        image = images.update(image, *paths, if_target=expected)
    c.out.rows(view.IMAGES, [view.row(c.namespace, image)], view.LABELS_ONLY, header=False)
