"""Why content is kept, or since when it is garbage: `gc --why`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from operator import itemgetter
from typing import TYPE_CHECKING

from imgtool.cli.output import Kind, Row
from imgtool.clock import format_time

if TYPE_CHECKING:
    from imgtool.cli.context import Context

STEPS = Kind("steps", ("namespace", "status", "kind", "name", "through", "since"))
_COLUMNS: Mapping[str, Callable[[Row], str]] = {
    "NAMESPACE": itemgetter("namespace"),
    "STATUS": itemgetter("status"),
    "KIND": itemgetter("kind"),
    "NAME": itemgetter("name"),
    "THROUGH": itemgetter("through"),
    "SINCE": lambda r: r["since"] or "-",
}


def show(c: Context, digest: str, *, zero: bool = False) -> None:
    """Print, for each namespace that has to do with `digest`, the way from a root, a row for each step.

    Raises:
        InvalidArgument: it is no digest.
        NotFound: the store does not have it.
    """
    from imgtool.digest import Digest
    from imgtool.ops.why import explain

    wanted = Digest.parse(digest)

    def rows() -> Iterator[Row]:
        for answer in explain(c.store(), wanted):
            since = None if answer.since is None else format_time(answer.since)
            for step in answer.steps:
                yield {
                    "namespace": answer.namespace,
                    "status": answer.status,
                    **step._asdict(),
                    "since": since,
                }

    c.out.rows(STEPS, rows(), _COLUMNS, zero=zero)
