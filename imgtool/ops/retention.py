"""Retention: which images a policy keeps, which it lets go, and why. Nothing is read or changed here.

A policy is a sequence of rules. The first that is about an image judges it; one that no rule is about
stays. A rule puts its images into groups, and in each of them an image stays that any of its keep
values asks for, or that a lease holds.

An image is as old as the last change of its record, `updated`, so that a name which moves on to new
content is young. Of images that were changed at the same time, the last by namespace and name counts as
the newest. Names in one group that have the same target are one image for `last`: they stay together.

An image whose time is past is gc's: it counts for no rule and none lets it go, so that the place of the
newest is not taken by one that goes by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from imgtool.clock import parse_duration
from imgtool.errors import InvalidArgument
from imgtool.oci.references import repository_of, tag_of

if TYPE_CHECKING:
    from imgtool.digest import Digest
    from imgtool.model import Image

REPOSITORY, NAMESPACE, NONE, LABEL = "repository", "namespace", "none", "label:"


class Rule(NamedTuple):
    """What stays of each group of the images that it is about. `check` it before it judges."""

    last: int | None = (
        None  # the newest so many; None is 1, so that nobody empties a group who does not say 0
    )
    within: str | None = None  # what is younger, a duration
    tags: tuple[str, ...] = ()  # that whose tag one of these finds, RE2
    group_by: str = REPOSITORY  # or NAMESPACE, NONE, LABEL and a key
    namespaces: tuple[str, ...] = ()  # shell patterns; none at all mean every one
    repositories: tuple[str, ...] = ()  # likewise


class Found(NamedTuple):
    """An image, and where it is."""

    namespace: str
    image: Image
    lease: str | None = None  # the id of one that holds it
    is_past: bool = False  # its time is up


class Verdict(NamedTuple):
    """What becomes of an image."""

    found: Found
    keeps: bool  # it does not go by the policy
    reason: str  # what keeps it, or what does not


def judge(images: Iterable[Found], rules: Sequence[Rule], now: int) -> list[Verdict]:
    """A verdict for each of `images`, in their order.

    Args:
        images: all that the policy is to see.
        rules: checked ones.
        now: in nanoseconds since the epoch.
    """
    images = list(images)
    cases = [_case(found, rules) for found in images]
    members: dict[_Case, list[Found]] = {}
    for found, case in zip(images, cases, strict=True):
        if case and not found.is_past:
            members.setdefault(case, []).append(found)
    newest = {case: _newest(group, _count(rules[case.number])) for case, group in members.items()}
    verdicts = []
    for found, case in zip(images, cases, strict=True):
        if found.is_past:
            verdicts.append(Verdict(found, True, "its time is past"))
            continue
        if case is None:
            verdicts.append(Verdict(found, True, "no rule is about it"))
            continue
        is_newest = found.image.target.digest in newest[case]
        keeps, reason = _judge(rules[case.number], found, is_newest, now)
        which = f"rule {case.number + 1}: " if len(rules) > 1 else ""
        verdicts.append(Verdict(found, keeps, which + reason))
    return verdicts


class _Case(NamedTuple):
    """What an image is judged with: the rule that is about it, and its group there."""

    number: int
    group: tuple[str, ...]


def _case(found: Found, rules: Sequence[Rule]) -> _Case | None:
    for number, rule in enumerate(rules):
        if _is_about(rule, found):
            return _Case(number, _group(rule.group_by, found))
    return None


def _judge(rule: Rule, found: Found, is_newest: bool, now: int) -> tuple[bool, str]:
    """Whether `rule` keeps an image, and why."""
    keep: list[str] = []
    let_go: list[str] = []
    count, group = _count(rule), _group_text(rule.group_by, found)
    if count == 0:
        let_go.append("keep-last is 0")
    else:
        newest = f"the newest of {group}" if count == 1 else f"among the newest {count} of {group}"
        (keep if is_newest else let_go).append(newest if is_newest else f"not {newest}")
    if rule.within is not None:
        is_young = now - found.image.updated < parse_duration(rule.within)
        (keep if is_young else let_go).append(f"{'' if is_young else 'not '}younger than {rule.within}")
    if rule.tags:
        tag = tag_of(found.image.name)
        finds = next((text for text in rule.tags if _search(text)(tag)), None)
        if finds is None:
            let_go.append(f"'{tag}' matches no keep-tag")
        else:
            keep.append(f"'{tag}' matches '{finds}'")
    if found.lease is not None:
        keep.append(f"lease '{found.lease}' holds it")
    return bool(keep), ", ".join(keep or let_go)


def _newest(members: Iterable[Found], count: int) -> set[Digest]:
    """The `count` targets that `members` have most recently been changed to have."""
    found: dict[Digest, None] = {}
    for member in sorted(members, key=lambda f: (f.image.updated, f.namespace, f.image.name), reverse=True):
        if len(found) == count:
            break
        found[member.image.target.digest] = None
    return set(found)


def _count(rule: Rule) -> int:
    return 1 if rule.last is None else rule.last


def _is_about(rule: Rule, found: Found) -> bool:
    return _matches(rule.namespaces, found.namespace) and _matches(
        rule.repositories, repository_of(found.image.name)
    )


def _matches(patterns: Collection[str], text: str) -> bool:
    return not patterns or any(fnmatchcase(text, pattern) for pattern in patterns)


def _group(group_by: str, found: Found) -> tuple[str, ...]:
    if group_by == NONE:
        return ()
    if group_by == NAMESPACE:
        return (found.namespace,)
    if group_by == REPOSITORY:
        return found.namespace, repository_of(found.image.name)
    return found.namespace, found.image.labels.get(group_by.removeprefix(LABEL), "")


def _group_text(group_by: str, found: Found) -> str:
    if group_by == NONE:
        return "all"
    if group_by == NAMESPACE:
        return f"namespace '{found.namespace}'"
    if group_by == REPOSITORY:
        return f"repository '{repository_of(found.image.name)}'"
    key = group_by.removeprefix(LABEL)
    value = found.image.labels.get(key)
    return f"those without label '{key}'" if value is None else f"label '{key}={value}'"


# --- rules that make sense --------------------------------------------------------------------------


def check(rule: Rule) -> Rule:
    """`rule`, if it can judge.

    Raises:
        InvalidArgument: it has no keep value, or one that is none; it groups by something else.
    """
    if rule.last is None and rule.within is None and not rule.tags:
        raise InvalidArgument("nothing to keep is given", hint="give keep-last, keep-within or keep-tag")
    if rule.last is not None and rule.last < 0:
        raise InvalidArgument(f"keep-last is {rule.last}, expected 0 or more")
    if rule.within is not None:
        try:
            parse_duration(rule.within)
        except InvalidArgument as error:
            raise InvalidArgument(f"keep-within: {error.message}", hint=error.hint) from None
    for text in rule.tags:
        _search(text)
    by_label = rule.group_by.startswith(LABEL) and rule.group_by != LABEL
    if rule.group_by not in (REPOSITORY, NAMESPACE, NONE) and not by_label:
        raise InvalidArgument(
            f"cannot group by '{rule.group_by[:80]}'", hint="repository, namespace, none or label:KEY"
        )
    return rule


@lru_cache
def _search(pattern: str) -> Callable[[str], bool]:
    """Whether RE2 finds `pattern` in a text.

    Raises:
        InvalidArgument: it is no regular expression.
    """
    import re2

    options = re2.Options()
    options.log_errors = False
    try:
        regexp = re2.compile(pattern, options)
    except re2.error as error:
        why = error.args[0].decode("utf-8", "replace") if error.args else "malformed"
        raise InvalidArgument(f"keep-tag '{pattern[:80]}' is no regular expression: {why}") from None
    except UnicodeEncodeError:
        raise InvalidArgument(f"keep-tag '{pattern[:80]}' is not UTF-8") from None
    return lambda text: regexp.search(text) is not None


# --- a policy as a file -----------------------------------------------------------------------------

_KEYS: Mapping[str, tuple[str, bool]] = {  # key -> field, and whether it takes many texts
    "keep-last": ("last", False),
    "keep-within": ("within", False),
    "keep-tag": ("tags", True),
    "group-by": ("group_by", False),
    "namespace": ("namespaces", True),
    "repository": ("repositories", True),
}


def parse(text: str, where: str) -> tuple[Rule, ...]:
    """The rules of the policy `text`, which is TOML: tables `[[rule]]`, their keys those of gc's options.

    Args:
        where: what to call it in messages.

    Raises:
        InvalidArgument: it is no TOML; it has no rule, a key that is none, or a value that cannot be.
    """
    from imgtool.disk import codec

    document = codec.parse(text, where)
    _check_keys(document, ("rule",), where)
    tables = document.get("rule", [])
    if not (isinstance(tables, list) and all(isinstance(table, dict) for table in tables)):
        raise InvalidArgument(f"{where}: 'rule' is no array of tables", hint="write [[rule]]")
    if not tables:
        raise InvalidArgument(f"{where}: there is no rule", hint="a rule begins with [[rule]]")
    return tuple(_rule(table, f"{where}: rule {number}") for number, table in enumerate(tables, 1))


def _rule(table: Mapping[str, Any], where: str) -> Rule:
    _check_keys(table, _KEYS, where)
    fields: dict[str, Any] = {}
    for key, value in table.items():
        field, is_many = _KEYS[key]
        fields[field] = _texts(value, key, where) if is_many else _single(value, key, where)
    try:
        return check(Rule(**fields))
    except InvalidArgument as error:
        raise InvalidArgument(f"{where}: {error.message}", hint=error.hint) from None


def _single(value: object, key: str, where: str) -> object:
    """
    Raises:
        InvalidArgument: it is not of the type that the key wants.
    """
    wanted: type = int if key == "keep-last" else str
    if not isinstance(value, wanted) or isinstance(value, bool):
        raise InvalidArgument(f"{where}: {key} is no {'whole number' if wanted is int else 'text'}")
    return value


def _texts(value: object, key: str, where: str) -> tuple[str, ...]:
    """
    Raises:
        InvalidArgument: it is neither a text nor a list of at least one.
    """
    texts = [value] if isinstance(value, str) else value
    if not (isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)):
        raise InvalidArgument(f"{where}: {key} is neither a text nor a list of texts")
    return tuple(texts)


def _check_keys(table: Mapping[str, Any], known: Collection[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise InvalidArgument(f"{where}: unknown key '{key[:80]}'", hint=f"known: {', '.join(known)}")
