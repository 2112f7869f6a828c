"""`gc`: the policy that its options make, and what goes as rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from imgtool.cli import garbage
from imgtool.errors import InvalidArgument, from_oserror

if TYPE_CHECKING:
    from imgtool.cli.context import Context
    from imgtool.cli.output import Row
    from imgtool.ops.retention import Rule, Verdict

_KEEP = ("--keep-last", "--keep-within", "--keep-tag")
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


def explain(c: Context, digest: str, others: Sequence[str], *, zero: bool) -> None:
    """`imgtool gc --why`.

    Args:
        others: the options of gc that are given besides.
        zero: names end with NUL.

    Raises:
        InvalidArgument: there are such.
    """
    if others:
        raise InvalidArgument(f"--why and {others[0]} exclude each other")
    from imgtool.cli import why

    why.show(c, digest, zero=zero)


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
    from imgtool.ops import gc

    if auto and retention.given():
        raise InvalidArgument(f"--auto and {retention.given()[0]} exclude each other")
    rules = retention.rules()
    kind, columns = garbage.GARBAGE.also("reason"), garbage.columns(exact=exact)
    if auto and not _is_due(c):
        c.out.rows(kind, (), columns, zero=zero, header=False)
        return
    total = c.format == "table" and not (c.quiet or zero)

    def removed() -> Iterator[Row]:
        going = _going(c, retention, rules) if rules else []
        if dry_run or going:
            # Before the first is deleted: where something cannot be read, nothing goes.
            rest = gc.find(c.store(), without=[(v.found.namespace, v.found.image.name) for v in going])
        for found, _, reason in going if dry_run else deleted(c, going):
            where = {"kind": "image", "namespace": found.namespace, "name": found.image.name}
            yield where | {"size": None, "reason": reason}
        if not dry_run:
            rest = gc.collect(c.store())
        for row in garbage.rows(rest, total=total):
            yield dict(row) | {"reason": _EXPIRED if row["kind"] in ("image", "lease") else None}

    c.out.rows(kind, removed(), columns, zero=zero)


def _is_due(c: Context) -> bool:
    from imgtool.ops.auto import due

    reason = due(c.store())
    c.detail(f"a gc is due: {reason}" if reason else "no gc is due")
    return reason is not None


def _going(c: Context, options: Retention, rules: Sequence[Rule]) -> list[Verdict]:
    """The verdicts on the images that go. Who wants to know is told of every image."""
    from imgtool import clock
    from imgtool.ops import prune
    from imgtool.ops.retention import judge

    store = c.store()
    namespaces = [ns.name for ns in store.namespaces.list()] if options.all_namespaces else [c.namespace]
    verdicts = judge(prune.images(store, namespaces, options.filters), rules, clock.now())
    for verdict in verdicts:
        c.detail(f"{_named(verdict)} {'stays' if verdict.keeps else 'goes'}: {verdict.reason}")
    return [verdict for verdict in verdicts if not verdict.keeps]


def deleted(c: Context, going: Sequence[Verdict]) -> Iterator[Verdict]:
    """Those of `going` that are deleted, each when it is yielded."""
    from imgtool.ops import prune

    for verdict in going:
        if prune.delete(c.store(), verdict.found):
            yield verdict
        else:
            c.say(f"{_named(verdict)} has been changed or deleted meanwhile, and is left alone")


def _named(verdict: Verdict) -> str:
    return f"image '{verdict.found.image.name}' of namespace '{verdict.found.namespace}'"


def _text(path: str) -> str:
    """What is in the file `path`; `-` is stdin.

    Raises:
        InvalidArgument: it is no text; NotFound, PermissionDenied, …: it cannot be read.
    """
    try:
        with open(0 if path == "-" else path, "rb", closefd=path != "-") as file:
            return file.read().decode()
    except OSError as error:
        error.filename = path  # reading does not say
        raise from_oserror(error, "cannot read policy") from None
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"policy '{path}' is not UTF-8 at byte {error.start + 1}") from None
