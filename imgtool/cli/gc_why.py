"""Why content is kept, or since when it is garbage: `gc --why`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING

from imgtool.cli.output import Kind, Row
from imgtool.clock import format_time
from imgtool.errors import InvalidArgument

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


def show(c: Context, word: str, others: Sequence[str], *, zero: bool) -> None:
    """Print, for each namespace that has to do with the digest that `word` means, the way from a root, a
    row for each step.

    Args:
        word: a digest, or the name of an image.
        others: the options of gc that are given besides.
        zero: names end with NUL.

    Raises:
        InvalidArgument: there are such.
        NotFound: there is no such image, or the store does not have its content.
    """
    if others:
        raise InvalidArgument(f"--why and {others[0]} exclude each other")
    from imgtool.cli.contents import digest_of
    from imgtool.ops.why import explain

    wanted = digest_of(c, word)

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
