"""Which parts of a record an update replaces. The cases of containerd's images_test.go are here as facts."""

from __future__ import annotations

import pytest

from imgtool.digest import Digest
from imgtool.errors import InvalidArgument
from imgtool.fieldpaths import merge_image, merge_labels
from imgtool.model import Descriptor, Image, replace

OLD = {"foo": "bar", "baz": "boo"}
NEW = {"foo": "new", "boo": "boo"}
CURRENT = Image("a", Descriptor("old", Digest.of(b"old"), 3, annotations=OLD), OLD, 1, 2, {"x": "y"})
GIVEN = Image("other", Descriptor("new", Digest.of(b"newer"), 5, annotations=NEW), NEW, 8, 9)


def annotated(target: Descriptor, annotations: dict[str, str]) -> Descriptor:
    return replace(target, annotations=annotations)


@pytest.mark.parametrize(
    ("paths", "labels", "target"),
    [
        ([], NEW, GIVEN.target),
        (["labels"], NEW, CURRENT.target),
        (["annotations"], OLD, annotated(CURRENT.target, NEW)),
        (["annotations", "labels"], NEW, annotated(CURRENT.target, NEW)),
        (["labels.foo"], {"foo": "new", "baz": "boo"}, CURRENT.target),
        (["annotations.foo"], OLD, annotated(CURRENT.target, {"foo": "new", "baz": "boo"})),
        (["annotations.baz"], OLD, annotated(CURRENT.target, {"foo": "bar"})),
        (["target"], OLD, GIVEN.target),
        (["target", "annotations.baz"], OLD, GIVEN.target),
        (["annotations.baz", "target"], OLD, GIVEN.target),
        (["labels", "labels.baz"], NEW, CURRENT.target),
    ],
)
def test_an_image_takes_what_its_paths_name(
    paths: list[str], labels: dict[str, str], target: Descriptor
) -> None:
    """In order; name, times and what this version does not know stay."""
    assert merge_image(CURRENT, GIVEN, paths) == replace(CURRENT, labels=labels, target=target)


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ([], NEW),
        (["labels"], NEW),
        (["labels.foo"], {"foo": "new", "baz": "boo"}),
        (["labels.baz"], {"foo": "bar"}),
        (["labels.none"], OLD),
        (["labels."], OLD),
        (["labels.none", "labels.boo"], {**OLD, "boo": "boo"}),
    ],
)
def test_labels_take_what_their_paths_name(paths: list[str], expected: dict[str, str]) -> None:
    """A key that the input lacks is removed."""
    assert merge_labels(OLD, NEW, paths, "thing") == expected
    assert OLD == {"foo": "bar", "baz": "boo"}


def test_an_empty_value_removes() -> None:
    """By every way in; so nothing empty is ever stored."""
    for paths in ([], ["labels"], ["labels.k"]):
        assert merge_labels({"k": "v"}, {"k": ""}, paths, "thing") == {}
    assert merge_labels({"k": "v"}, {"": "v"}, ["labels."], "thing") == {"k": "v", "": "v"}


def test_a_key_is_all_that_follows_the_first_dot() -> None:
    """Verbatim: slashes, dots, blanks."""
    key = "example.com/a.b c"
    assert merge_labels({}, {key: "v", "example": "w"}, [f"labels.{key}"], "thing") == {key: "v"}


@pytest.mark.parametrize("path", ["", "name", "Labels", "label.k", "labels/k", ".labels", " labels"])
def test_any_other_path_is_refused(path: str) -> None:
    """The message names the path and the thing."""
    with pytest.raises(InvalidArgument, match="of thing 'x'"):
        merge_labels(OLD, NEW, ["labels", path], "thing 'x'")
    with pytest.raises(InvalidArgument, match="of image 'a'"):
        merge_image(CURRENT, GIVEN, ["target", path])


@pytest.mark.parametrize(
    "path", ["target.", "target.size", "target.annotations", "target.annotations.foo", "created"]
)
def test_parts_of_a_target_cannot_be_named(path: str) -> None:
    """It is replaced as a unit: a size without its digest would be wrong."""
    with pytest.raises(InvalidArgument):
        merge_image(CURRENT, GIVEN, [path])
