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
    from imgtool.model import replace

    c.out.check(view.IMAGES)
    paths, new = label_paths(labels, replace_all)
    images, expected = c.records(dry_run=dry_run).images(c.namespace), digest_or_none(if_digest)
    image = images.update(replace(images.get(name), labels=new), *paths, if_target=expected)
    c.out.rows(view.IMAGES, [view.row(c.namespace, image)], view.LABELS_ONLY, header=False)
