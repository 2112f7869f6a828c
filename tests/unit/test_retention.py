"""Retention against its rules, computed the slow way; what a policy may say; and letting go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgtool.clock import DAY, HOUR, SECOND
from imgtool.digest import Digest
from imgtool.disk import open_store
from imgtool.errors import DataLoss, InvalidArgument
from imgtool.memory import MemoryStore
from imgtool.model import Descriptor, Image, Lease, replace
from imgtool.oci import media
from imgtool.ops import gc, prune
from imgtool.ops.retention import Found, Rule, Verdict, check, judge, parse
from imgtool.stores import Garbage, Store

from .gc_world import EXPIRE, NS, OTHER, REF_IMAGE, ROOT, add, tag

NOW = 10 * DAY
TARGETS = [Digest.of(data) for data in (b"one", b"two", b"three")]

# Name -> its repository and what keep-tag looks at.
NAMES = {
    "app": ("app", "app"),
    "app:latest": ("app", "latest"),
    "app:v1": ("app", "v1"),
    "app:v2": ("app", "v2"),
    f"app@{TARGETS[0]}": ("app", f"app@{TARGETS[0]}"),
    f"app:v1@{TARGETS[0]}": ("app", "v1"),
    "host:5000/team/app:v1": ("host:5000/team/app", "v1"),
    "host:5000/team/app:v2": ("host:5000/team/app", "v2"),
    "App:v1": ("App:v1", "App:v1"),
    "notes v1.txt": ("notes v1.txt", "notes v1.txt"),
    TARGETS[1]: (TARGETS[1], TARGETS[1]),
}
DURATIONS = {"0": 0, "12h": 12 * HOUR, "2d": 2 * DAY, "1w": 7 * DAY}
TAGS: dict[str, Callable[[str], bool]] = {
    "^v": lambda tag: tag.startswith("v"),
    "1": lambda tag: "1" in tag,
    "^latest$": lambda tag: tag == "latest",
    "nothing": lambda tag: False,
}
REPOSITORIES: dict[str, Callable[[str], bool]] = {
    "app": lambda name: name == "app",
    "*/app": lambda name: name.endswith("/app"),
    "*": lambda name: True,
    "nowhere": lambda name: False,
}


PAST, FUTURE = "2001-01-01T00:00:00Z", "2201-01-01T00:00:00Z"


def found(
    name: str, *, age: int = 0, target: int = 0, namespace: str = NS, is_past: bool = False, **labels: str
) -> Found:
    """An image that was changed `age` days ago."""
    descriptor = Descriptor(media.OCTETS, TARGETS[target], 1)
    return Found(namespace, Image(name, descriptor, labels, 0, NOW - age * DAY), is_past=is_past)


def stay(verdicts: Sequence[Verdict]) -> list[str]:
    """The names of those that stay."""
    return [verdict.found.image.name for verdict in verdicts if verdict.keeps]


@st.composite
def worlds(draw: st.DrawFn) -> list[Found]:
    """Images, of which many have a time, a target or a group in common."""
    keys = st.tuples(st.sampled_from([NS, OTHER]), st.sampled_from(sorted(NAMES)))
    ends = st.sampled_from([{}, {}, {EXPIRE: PAST}, {EXPIRE: FUTURE}, {EXPIRE: "some day"}])
    return [
        Found(
            namespace,
            Image(
                name,
                Descriptor(media.OCTETS, draw(st.sampled_from(TARGETS)), 1),
                draw(st.sampled_from([{}, {"team": "red"}, {"team": "blue"}])) | (end := draw(ends)),
                0,
                NOW - draw(st.integers(-2, 20)) * DAY // 2,
            ),
            draw(st.none() | st.none() | st.just("held")),
            end.get(EXPIRE) == PAST,
        )
        for namespace, name in draw(st.lists(keys, unique=True, max_size=14).map(sorted))
    ]


def some(choices: Iterable[str]) -> st.SearchStrategy[tuple[str, ...]]:
    """Up to two of `choices`."""
    return st.lists(st.sampled_from(sorted(choices)), max_size=2).map(tuple)


def rules() -> st.SearchStrategy[Rule]:
    """Rules that can judge."""
    return st.builds(
        Rule,
        st.none() | st.integers(0, 3),
        st.none() | st.sampled_from(sorted(DURATIONS)),
        some(TAGS),
        st.sampled_from(["repository", "namespace", "none", "label:team"]),
        some([NS, "o*"]),
        some(REPOSITORIES),
    ).filter(lambda rule: rule.last is not None or rule.within is not None or bool(rule.tags))


# --- against the rules ------------------------------------------------------------------------------


def judged_by(image: Found, policy: Sequence[Rule]) -> int | None:
    """The number of the rule that is about an image."""
    namespaces: dict[str, Callable[[str], bool]] = {
        NS: lambda name: name == NS,
        "o*": lambda name: name == OTHER,
    }
    for number, rule in enumerate(policy):
        here = not rule.namespaces or any(namespaces[p](image.namespace) for p in rule.namespaces)
        repository = NAMES[image.image.name][0]
        if here and (not rule.repositories or any(REPOSITORIES[p](repository) for p in rule.repositories)):
            return number
    return None


def together(rule: Rule, one: Found, other: Found) -> bool:
    """Whether two images that `rule` judges are in one group."""
    if rule.group_by == "none":
        return True
    if one.namespace != other.namespace:
        return False
    if rule.group_by == "namespace":
        return True
    if rule.group_by == "repository":
        return NAMES[one.image.name][0] == NAMES[other.image.name][0]
    return one.image.labels.get("team") == other.image.labels.get("team")


def should_stay(image: Found, images: Sequence[Found], policy: Sequence[Rule]) -> bool:
    """Whether an image stays, as imgtool-gc(1) says it."""
    number = judged_by(image, policy)
    if number is None or image.lease or image.is_past:
        return True
    rule = policy[number]
    if rule.within is not None and NOW - image.image.updated < DURATIONS[rule.within]:
        return True
    if any(TAGS[pattern](NAMES[image.image.name][1]) for pattern in rule.tags):
        return True
    group = [
        i for i in images if judged_by(i, policy) == number and together(rule, i, image) and not i.is_past
    ]

    def rank(target: Digest) -> tuple[int, str, str]:
        return max(
            (i.image.updated, i.namespace, i.image.name) for i in group if i.image.target.digest == target
        )

    mine = image.image.target.digest
    newer = {i.image.target.digest for i in group if rank(i.image.target.digest) > rank(mine)}
    return len(newer) < (1 if rule.last is None else rule.last)


@given(worlds(), st.lists(rules(), min_size=1, max_size=3))
def test_what_stays_is_what_the_rules_say(images: list[Found], policy: list[Rule]) -> None:
    """The code goes group by group; the manual speaks of one image."""
    verdicts = judge(images, policy, NOW)
    assert [verdict.found for verdict in verdicts] == images
    assert [v.keeps for v in verdicts] == [should_stay(image, images, policy) for image in images]
    assert all(verdict.reason for verdict in verdicts)


@given(worlds(), rules(), st.integers(0, 2), st.sampled_from(sorted(DURATIONS)), some(TAGS))
def test_a_stronger_rule_keeps_what_the_weaker_kept(
    images: list[Found], rule: Rule, more: int, within: str, tags: tuple[str, ...]
) -> None:
    """Who adds to a policy to be safe must not lose something by it."""
    longest = max(within, rule.within or "0", key=lambda text: DURATIONS[text])
    stronger = rule._replace(
        last=(1 if rule.last is None else rule.last) + more, within=longest, tags=rule.tags + tags
    )
    for weak, strong in zip(judge(images, [rule], NOW), judge(images, [stronger], NOW), strict=True):
        assert strong.keeps >= weak.keeps


@given(worlds(), st.lists(rules(), min_size=1, max_size=3))
def test_what_has_stayed_stays_again(images: list[Found], policy: list[Rule]) -> None:
    """A cron job that runs twice must not eat its way through."""
    left = [verdict.found for verdict in judge(images, policy, NOW) if verdict.keeps]
    assert all(verdict.keeps for verdict in judge(left, policy, NOW))


@given(worlds(), worlds(), rules().filter(lambda rule: rule.group_by != "none"))
def test_groups_are_judged_each_for_itself(images: list[Found], others: list[Found], rule: Rule) -> None:
    """A build of one project must not push out another's."""
    here = [image for image in images if image.namespace == NS]
    elsewhere = [image for image in others if image.namespace == OTHER]
    assert judge(here + elsewhere, [rule], NOW)[: len(here)] == judge(here, [rule], NOW)


@given(worlds(), rules().filter(lambda rule: rule.last != 0))
def test_no_group_is_emptied_unless_0_is_said(images: list[Found], rule: Rule) -> None:
    """A clock that is wrong, or a pattern that is, costs no project all of its images. What is past goes
    by itself, and is none that stays.
    """
    living = [v for v in judge(images, [rule], NOW) if not v.found.is_past]
    verdicts = [verdict for verdict in living if judged_by(verdict.found, [rule]) == 0]
    kept = [verdict.found for verdict in verdicts if verdict.keeps]
    for verdict in verdicts:
        assert any(together(rule, verdict.found, image) for image in kept)


# --- one thing after the other ----------------------------------------------------------------------


def test_names_of_one_target_count_once() -> None:
    """`latest` must not take the place of an older version, and deleting it would free nothing."""
    images = [
        found("app:latest", age=1, target=0),
        found("app:v3", age=9, target=0),
        found("app:v2", age=2, target=1),
        found("app:v1", age=3, target=2),
    ]
    assert stay(judge(images, [Rule(last=2)], NOW)) == ["app:latest", "app:v3", "app:v2"]


def test_what_is_past_takes_nobodys_place() -> None:
    """gc would take it, and the group would be empty. Whether something else leads to it, gc knows."""
    images = [found("app:v1", age=2), found("app:v2", age=1, target=1, is_past=True)]
    verdicts = judge(images, [Rule(last=1)], NOW)
    assert [(v.keeps, v.reason) for v in verdicts] == [
        (True, "the newest of repository 'app'"),
        (True, "its time is past"),
    ]
    assert stay(judge(images, [Rule(last=0)], NOW)) == ["app:v2"]


def test_the_edge_of_within_is_outside() -> None:
    """`younger than` has one meaning."""
    images = [found("app:v1", age=2), found("app:v2", age=0, target=1)]
    assert stay(judge(images, [Rule(within="2d")], NOW)) == ["app:v2"]
    assert stay(judge(images, [Rule(within="2d")], NOW - 1)) == ["app:v1", "app:v2"]


def test_a_time_ahead_is_young() -> None:
    """A clock that went wrong once must not cost the newest image."""
    images = [found("app:v1", age=-3), found("app:v2", age=-4, target=1)]
    assert stay(judge(images, [Rule(within="1h")], NOW)) == ["app:v1", "app:v2"]


def test_the_first_rule_that_is_about_an_image_judges_it() -> None:
    """Exceptions stand before what they are exceptions of."""
    images = [
        found("app:v1", age=2),
        found("app:v2", target=1),
        found("lib:v1", age=2),
        found("lib:v2", target=1),
    ]
    policy = [Rule(last=2, repositories=("app",)), Rule(last=1)]
    assert stay(judge(images, policy, NOW)) == ["app:v1", "app:v2", "lib:v2"]


@pytest.mark.parametrize(
    ("rule", "kept", "gone"),
    [
        (Rule(last=1), "the newest of repository 'app'", "not the newest of repository 'app'"),
        (Rule(last=0), None, "keep-last is 0"),
        (
            Rule(last=1, group_by="namespace"),
            "the newest of namespace 'default'",
            "not the newest of namespace 'default'",
        ),
        (Rule(last=1, group_by="none"), "the newest of all", "not the newest of all"),
        (
            Rule(last=1, group_by="label:team"),
            "the newest of label 'team=red'",
            "not the newest of label 'team=red'",
        ),
        (
            Rule(last=1, group_by="label:tier"),
            "the newest of those without label 'tier'",
            "not the newest of those without label 'tier'",
        ),
        (
            Rule(within="1d"),
            "the newest of repository 'app', younger than 1d",
            "not the newest of repository 'app', not younger than 1d",
        ),
        (
            Rule(tags=("2$",)),
            "the newest of repository 'app', 'v2' matches '2$'",
            "not the newest of repository 'app', 'v1' matches no keep-tag",
        ),
    ],
)
def test_a_verdict_says_why(rule: Rule, kept: str | None, gone: str) -> None:
    """Who reads it must be able to change the policy so that the next verdict is another one."""
    images = [found("app:v2", team="red", target=1), found("app:v1", age=3, team="red")]
    first, second = judge(images, [rule], NOW)
    assert (first.keeps, first.reason) == ((True, kept) if kept else (False, gone))
    assert (second.keeps, second.reason) == (False, gone)


def test_a_verdict_says_which_rule() -> None:
    """A file has several."""
    policy = [Rule(last=1, repositories=("app",)), Rule(last=2, repositories=("lib",))]
    verdicts = judge([found("app:v1"), found("lib:v1"), found("web:v1")], policy, NOW)
    assert [verdict.reason for verdict in verdicts] == [
        "rule 1: the newest of repository 'app'",
        "rule 2: among the newest 2 of repository 'lib'",
        "no rule is about it",
    ]


# --- what a policy may say --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rule(), "nothing to keep is given"),
        (Rule(group_by="none"), "nothing to keep is given"),
        (Rule(last=-1), "keep-last is -1, expected 0 or more"),
        (Rule(within="soon"), "keep-within: 'soon' is not a duration"),
        (Rule(within="-1d"), "keep-within: '-1d' is not a duration"),
        (Rule(tags=("v(",)), "keep-tag 'v(' is no regular expression: missing ): v("),
        (Rule(tags=(r"(?=v)",)), "keep-tag '(?=v)' is no regular expression: invalid perl operator: (?="),
        (Rule(tags=("\udc80",)), "keep-tag '\udc80' is not UTF-8"),
        (Rule(last=1, group_by="tag"), "cannot group by 'tag'"),
        (Rule(last=1, group_by="label:"), "cannot group by 'label:'"),
    ],
)
def test_a_rule_that_cannot_judge_is_refused(rule: Rule, message: str) -> None:
    """containerd's filters find nothing with a malformed expression; here that would delete everything."""
    with pytest.raises(InvalidArgument) as caught:
        check(rule)
    assert caught.value.message == message


def test_a_policy_says_what_the_options_say() -> None:
    """One text or several, in the same words."""
    text = """
        [[rule]]
        namespace = "ci"
        repository = ["app", "host:5000/*"]
        keep-last = 3
        keep-within = "30d"
        keep-tag = ["^v", "^latest$"]
        group-by = "label:team"

        [[rule]]
        keep-tag = "."
    """
    assert parse(text, "here") == (
        Rule(3, "30d", ("^v", "^latest$"), "label:team", ("ci",), ("app", "host:5000/*")),
        Rule(tags=(".",)),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no rule"),
        ("rule = []", "there is no rule"),
        ("rule = 1", "'rule' is no array of tables"),
        ("rule = [1]", "'rule' is no array of tables"),
        ("[rule]\nkeep-last = 1", "'rule' is no array of tables"),
        ("[[rules]]\nkeep-last = 1", "unknown key 'rules'"),
        ("[[rule]]\nkeep_last = 1", "rule 1: unknown key 'keep_last'"),
        ("[[rule]]\nkeep-last = 1\n[[rule]]", "rule 2: nothing to keep is given"),
        ("[[rule]]\nkeep-last = '1'", "rule 1: keep-last is no whole number"),
        ("[[rule]]\nkeep-last = true", "rule 1: keep-last is no whole number"),
        ("[[rule]]\nkeep-last = 1.0", "rule 1: keep-last is no whole number"),
        ("[[rule]]\nkeep-last = -1", "rule 1: keep-last is -1, expected 0 or more"),
        ("[[rule]]\nkeep-within = 30", "rule 1: keep-within is no text"),
        ("[[rule]]\nkeep-within = '30 days'", "rule 1: keep-within: '30 days' is not a duration"),
        ("[[rule]]\nkeep-tag = []", "rule 1: keep-tag is neither a text nor a list of texts"),
        ("[[rule]]\nkeep-tag = [1]", "rule 1: keep-tag is neither a text nor a list of texts"),
        ("[[rule]]\nkeep-tag = '['", "rule 1: keep-tag '[' is no regular expression: missing ]: ["),
        (
            "[[rule]]\nkeep-last = 1\nnamespace = []",
            "rule 1: namespace is neither a text nor a list of texts",
        ),
        ("[[rule]]\nkeep-last = 1\ngroup-by = 'tag'", "rule 1: cannot group by 'tag'"),
    ],
)
def test_a_policy_that_is_none_is_refused(text: str, message: str) -> None:
    """A word that is passed over might be the one that keeps something."""
    with pytest.raises(InvalidArgument) as caught:
        parse(text, "here")
    assert caught.value.message == f"here: {message}"


@pytest.mark.parametrize(
    "text", ["[[rule]", "[[rule]]\nkeep-last = ", "x = " + "[" * 100_000, "x = " + "1" * 5000]
)
def test_what_is_no_toml_is_refused(text: str) -> None:
    """Also where Python's parser gives up in its own ways."""
    with pytest.raises(InvalidArgument, match=r"^here is (not TOML|nested too deep)"):
        parse(text, "here")


# --- letting go -------------------------------------------------------------------------------------


@pytest.fixture(params=["memory", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A new, empty store."""
    if request.param == "memory":
        yield MemoryStore()
        return
    with open_store(str(tmp_path / "store")) as disk:
        yield disk


def version(store: Store, name: str, day: int, monkeypatch: pytest.MonkeyPatch) -> Digest:
    """Make an image with content of its own, on a certain day."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(day * 86400))
    digest = add(store, name.encode())
    tag(store, name, digest, media.OCTETS)
    return digest


def seen(store: Store) -> list[Found]:
    """All images of the namespace."""
    return list(prune.images(store, [NS]))


def test_what_would_go_is_what_goes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run that says something else is worse than none."""
    digests = [version(store, f"app:v{day}", day, monkeypatch) for day in range(1, 5)]
    tag(store, "other:v1", digests[0], media.OCTETS)
    going = [v.found for v in judge(seen(store), [Rule(last=2)], NOW) if not v.keeps]
    expected = gc.find(store, without=[(f.namespace, f.image.name) for f in going])
    assert [prune.delete(store, image) for image in going] == [True, True]
    assert gc.collect(store) == expected
    assert set(expected.objects) == {digests[1]}, "the first one has another name"
    assert [f.image.name for f in seen(store)] == ["app:v3", "app:v4", "other:v1"]


@given(worlds(), st.lists(rules(), min_size=1, max_size=2))
def test_a_dry_run_tells_what_the_run_does(images: list[Found], policy: list[Rule]) -> None:
    """Whatever names share a target, in whatever groups and namespaces."""
    store = MemoryStore()
    with pytest.MonkeyPatch.context() as patch:
        for namespace, image, _, _ in images:
            patch.setenv("SOURCE_DATE_EPOCH", str(image.updated // SECOND))
            data = (b"one", b"two", b"three")[TARGETS.index(image.target.digest)]
            target = replace(image.target, digest=add(store, data, namespace), size=len(data))
            store.images(namespace).create(replace(image, target=target))
    there = list(prune.images(store, [NS, OTHER]))
    going = [verdict.found for verdict in judge(there, policy, NOW) if not verdict.keeps]
    expected = gc.find(store, without=[(found.namespace, found.image.name) for found in going])
    assert all(prune.delete(store, found) for found in going)
    assert gc.collect(store) == expected
    left = list(prune.images(store, [NS, OTHER]))
    assert left == [found for found in there if found not in going and not found.is_past]
    assert {digest for digest, _ in store.objects()} == {found.image.target.digest for found in left}


def test_a_second_run_removes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retention is what runs every night."""
    for day in range(1, 5):
        version(store, f"app:v{day}", day, monkeypatch)
    for verdict in judge(seen(store), [Rule(last=2)], NOW):
        if not verdict.keeps:
            prune.delete(store, verdict.found)
    gc.collect(store)
    assert all(verdict.keeps for verdict in judge(seen(store), [Rule(last=2)], NOW))
    assert not any(gc.find(store))


@pytest.mark.parametrize("field", ["target", "labels"])
def test_an_image_that_was_changed_since_it_was_judged_stays(
    store: Store, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another client may have made it the newest, or have marked it so that a filter leaves it out."""
    version(store, "app:v1", 1, monkeypatch)
    other = version(store, "app:v2", 2, monkeypatch)
    judged = seen(store)[0]
    target = Descriptor(media.OCTETS, other, 6)
    changed = replace(
        judged.image, **({"target": target} if field == "target" else {"labels": {"keep": "yes"}})
    )
    store.images(NS).update(changed)
    assert not prune.delete(store, judged)
    assert [f.image.name for f in seen(store)] == ["app:v1", "app:v2"]


def test_an_image_that_is_gone_already_is_not_told_of(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who deleted it has told of it."""
    version(store, "app:v1", 1, monkeypatch)
    judged = seen(store)[0]
    store.images(NS).delete("app:v1")
    assert not prune.delete(store, judged)


def pruned(store: Store, *rules: Rule, left: list[Verdict] | None = None) -> Iterator[Verdict | Garbage]:
    """What `prune.run` yields for the namespace."""
    alone = [] if left is None else left
    return prune.run(store, [NS], (), rules, NOW, judged=lambda verdict: None, left=alone.append)


def test_what_is_left_alone_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has seen the dry run would look for it in what the run prints."""
    digests = [version(store, f"app:v{day}", day, monkeypatch) for day in (1, 2, 3)]
    left: list[Verdict] = []
    gone = pruned(store, Rule(last=0), left=left)
    assert name_of(next(gone)) == "app:v1"
    second = store.images(NS).get("app:v2")
    store.images(NS).update(replace(second, labels={"keep": "yes"}))
    assert name_of(next(gone)) == "app:v3"
    assert [verdict.found.image for verdict in left] == [second]
    garbage = next(gone)
    assert isinstance(garbage, Garbage)
    assert set(garbage.objects) == {digests[0], digests[2]}
    assert list(gone) == []


def test_a_lease_that_comes_after_the_verdict_holds_the_image(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody who puts a name under a lease knows of a gc that has judged it a moment ago."""
    for day in (1, 2, 3):
        version(store, f"app:v{day}", day, monkeypatch)
    left: list[Verdict] = []
    gone = pruned(store, Rule(last=0), left=left)
    assert name_of(next(gone)) == "app:v1"
    store.leases(NS).create(Lease("late", {}, {"images": ("app:v2",)}))
    assert [name_of(verdict) for verdict in gone if isinstance(verdict, Verdict)] == ["app:v3"]
    assert [verdict.found.image.name for verdict in left] == ["app:v2"]
    assert [f.image.name for f in seen(store)] == ["app:v2"]


def test_where_something_cannot_be_read_no_image_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gc would refuse to free anything, and the names would be gone for nothing."""
    with open_store(str(tmp_path / "store")) as store:
        version(store, "app:v1", 1, monkeypatch)
        digest = version(store, "app:v2", 2, monkeypatch)
        path = tmp_path / "store" / "objects" / digest.algorithm / digest.encoded[:2] / digest.encoded[2:]
        path.unlink()
        with pytest.raises(DataLoss):
            list(pruned(store, Rule(last=1)))
        assert [f.image.name for f in seen(store)] == ["app:v1", "app:v2"]


def name_of(gone: Verdict | Garbage) -> str:
    assert isinstance(gone, Verdict)
    return gone.found.image.name


def test_an_image_that_a_lease_holds_stays(store: Store) -> None:
    """A lease is a root for gc, and retention is a part of gc. One that has expired holds nothing."""
    digest = add(store, b"content")
    for name in ("app:v1", "app:v2", "app:v3"):
        tag(store, name, digest, media.OCTETS)
    store.leases(NS).create(Lease("held", {}, {"images": ("app:v1",)}))
    store.leases(NS).create(Lease("old", {EXPIRE: "2001-01-01T00:00:00Z"}, {"images": ("app:v2",)}))
    verdicts = judge(seen(store), [Rule(last=0)], NOW)
    assert [(v.keeps, v.reason) for v in verdicts] == [
        (True, "lease 'held' holds it"),
        (False, "keep-last is 0"),
        (False, "keep-last is 0"),
    ]


def test_an_image_whose_time_is_past_leaves_the_one_before(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest of each group stays. What something else leads to is no garbage, and not the policy's."""
    version(store, "app:v1", 1, monkeypatch)
    version(store, "app:v2", 2, monkeypatch)
    for day, name in ((3, "app:v3"), (4, "app:v4")):
        version(store, name, day, monkeypatch)
        store.images(NS).update(replace(store.images(NS).get(name), labels={EXPIRE: PAST}), "labels")
    digest = add(store, b"root", labels={ROOT: "1", f"{REF_IMAGE}.x": "app:v4"})
    *gone, garbage = pruned(store, Rule(last=1))
    assert [name_of(verdict) for verdict in gone] == ["app:v1"]
    assert isinstance(garbage, Garbage)
    assert garbage.images == {NS: ["app:v3"]}
    assert [image.name for image in store.images(NS).list()] == ["app:v2", "app:v4"]
    assert store.content(NS).info(digest)


def test_a_policy_sees_the_images_that_match(store: Store) -> None:
    """The others are neither counted nor deleted."""
    digest = add(store, b"content")
    for name, namespace in (("app:v1", NS), ("lib:v1", NS), ("app:v1", OTHER)):
        tag(store, name, digest, media.OCTETS, namespace)
    images = prune.images(store, [NS, OTHER], ["name~=^app"])
    assert [(f.namespace, f.image.name) for f in images] == [(NS, "app:v1"), (OTHER, "app:v1")]
