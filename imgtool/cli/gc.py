"""`gc`: the policy that its options make, and what goes as rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from imgtool.cli.output import Kind, Row, size_text
from imgtool.errors import InvalidArgument

if TYPE_CHECKING:
    from imgtool.cli.context import Context
    from imgtool.ops.retention import Rule, Verdict
    from imgtool.stores import Garbage

GARBAGE = Kind("garbage", ("kind", "namespace", "name", "size", "reason"))
_KEEP = ("--keep-last", "--keep-within", "--keep-tag")
_POLICY_MAX = 1 << 20  # bytes
_EXPIRED = "its time is past"


class Retention(NamedTuple):
    """The options of gc that make a policy."""

    keep_last: int | None
    keep_within: str | None
    keep_tag: Sequence[str]
    group_by: str | None
    policy: str | None
    filters: Sequence[str]
    all_namespaces: bool

    def given(self) -> list[str]:
        """Those that are given, by their names."""
        values: Mapping[str, bool] = {
            "--keep-last": self.keep_last is not None,
            "--keep-within": self.keep_within is not None,
            "--keep-tag": bool(self.keep_tag),
            "--policy": self.policy is not None,
            "--group-by": self.group_by is not None,
            "--filter": bool(self.filters),
            "--all-namespaces": self.all_namespaces,
        }
        return [name for name, is_given in values.items() if is_given]

    def rules(self) -> tuple[Rule, ...]:
        """The policy that they make; no rules where none of them is given.

        Raises:
            InvalidArgument: they do not go together, or are malformed; and whatever reading the file raises.
        """
        given = self.given()
        if not given:
            return ()
        if any(not text.strip() for text in self.filters):
            raise InvalidArgument("--filter is empty", hint="without it the policy sees every image")
        if self.policy is None and not any(name in _KEEP for name in given):
            raise InvalidArgument(
                f"{given[0]} is for a policy, and none is given", hint=f"give {', '.join(_KEEP)} or --policy"
            )
        from imgtool.ops import retention

        if self.policy is None:
            rule = retention.Rule(self.keep_last, self.keep_within, tuple(self.keep_tag))
            return (retention.check(rule._replace(group_by=self.group_by or retention.REPOSITORY)),)
        clash = [name for name in given if name in (*_KEEP, "--group-by")]
        if clash:
            raise InvalidArgument(f"{clash[0]} and --policy exclude each other")
        return retention.parse(_text(self.policy), f"policy '{self.policy}'")


def collect(c: Context, retention: Retention, *, auto: bool, dry_run: bool, exact: bool, zero: bool) -> None:
    """Let go of the images that the policy does not keep, if there is one; then remove what nothing
    reaches; print what is gone.

    Args:
        auto: only if a gc is due; without a policy.
        dry_run: only print what would go.
        exact: sizes in bytes.
        zero: names end with NUL.

    Raises:
        InvalidArgument: the options do not go together; nothing was changed.
    """
    from imgtool import clock
    from imgtool.ops import prune
    from imgtool.ops.retention import Verdict

    if auto and retention.given():
        raise InvalidArgument(f"--auto and {retention.given()[0]} exclude each other")
    rules = retention.rules()
    if auto and not _is_due(c):
        c.out.rows(GARBAGE, (), columns(exact=exact), zero=zero, header=False)
        return
    with_total = c.format == "table" and not (c.quiet or zero)

    def removed() -> Iterator[Row]:
        store = c.store()
        everywhere = retention.all_namespaces
        for gone in prune.run(
            store,
            [ns.name for ns in store.namespaces.list()] if everywhere else [c.namespace],
            retention.filters,
            rules,
            clock.now(),
            dry_run=dry_run,
            judged=lambda v: c.detail(f"{_named(v)} {_fate(v)}: {v.reason}"),
            left=lambda v: c.say(
                f"{_named(v)} has been changed, leased or deleted meanwhile, and is left alone"
            ),
        ):
            if isinstance(gone, Verdict):
                yield _row("image", gone.found.namespace, gone.found.image.name, reason=gone.reason)
            else:
                yield from rows(gone, total=with_total)

    c.out.rows(GARBAGE, removed(), columns(exact=exact), zero=zero)


def after(c: Context, *, sync: bool, dry_run: bool) -> None:
    """What `--sync` asks for, after a command has removed something."""
    if sync and not dry_run:
        from imgtool.ops.gc import collect

        collect(c.store())


def _is_due(c: Context) -> bool:
    from imgtool.ops.auto import due

    reason = due(c.store())
    c.detail(f"a gc is due: {reason}" if reason else "no gc is due")
    return reason is not None


def _named(verdict: Verdict) -> str:
    return f"image '{verdict.found.image.name}' of namespace '{verdict.found.namespace}'"


def _fate(verdict: Verdict) -> str:
    if verdict.found.is_past:
        return "is none of the policy's"
    return "stays" if verdict.keeps else "goes"


def _text(path: str) -> str:
    """The policy in the file `path`; `-` is stdin.

    Raises:
        InvalidArgument: it is no text, or too long; and whatever `read_bytes` raises.
    """
    from imgtool.cli.words import read_bytes

    data = read_bytes(path, _POLICY_MAX + 1)
    if len(data) > _POLICY_MAX:
        raise InvalidArgument(f"policy '{path}' has more than {size_text(_POLICY_MAX)}")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"policy '{path}' is not UTF-8 at byte {error.start + 1}") from None


def rows(garbage: Garbage, *, total: bool = False) -> Iterator[Row]:
    """One row for each thing, in the order of removal. Records have no size: removing them frees nothing
    that counts.

    Args:
        total: end with a row for the sum.
    """
    for namespace, names in garbage.images.items():
        for name in names:
            yield _row("image", namespace, name, reason=_EXPIRED)
    for namespace in sorted({*garbage.leases, *garbage.content}):
        for id in garbage.leases.get(namespace, ()):
            yield _row("lease", namespace, id, reason=_EXPIRED)
        for digest in garbage.content.get(namespace, ()):
            yield _row("content", namespace, digest)
    for digest, size in garbage.objects.items():
        yield _row("object", "", digest, size)
    for item in garbage.litter:
        yield _row(item.kind, item.namespace, item.name, item.size)
    if total:
        size = sum(garbage.objects.values()) + sum(item.size for item in garbage.litter)
        yield _row("total", "", "", size)


def columns(*, exact: bool) -> Mapping[str, Callable[[Row], str]]:
    """The table of gc.

    Args:
        exact: sizes in bytes.
    """
    return {
        "KIND": itemgetter("kind"),
        "NAMESPACE": itemgetter("namespace"),
        "NAME": itemgetter("name"),
        "SIZE": lambda r: "-" if r["size"] is None else size_text(r["size"], exact=exact),
    }


def _row(kind: str, namespace: str, name: str, size: int | None = None, reason: str | None = None) -> Row:
    return {"kind": kind, "namespace": namespace, "name": name, "size": size, "reason": reason}
