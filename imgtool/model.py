"""The nouns: descriptor, image, content, ingest, lease, namespace. Values without behaviour or I/O.

Descriptors have the fields of the OCI image-spec (descriptor.md); the others those of containerd's
`core/images`, `core/content`, `core/leases`. All times are nanoseconds since the epoch, UTC; all
sizes are bytes. `unknown` carries the keys of a record that this version does not know, so that an
update by an older imgtool does not lose them.

Named tuples, because making a frozen dataclass costs every start half a millisecond, and importing
`dataclasses` six more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from imgtool.digest import Digest
from imgtool.errors import InvalidArgument
from imgtool.names import SHAREABLE, check_labels, check_name

SIZE_MAX = 2**63 - 1
_NESTING_MAX = 16
_ROOT = "containerd.io/gc.root"
EMPTY: Mapping[Any, Any] = MappingProxyType({})

T = TypeVar("T", bound=NamedTuple)

__all__ = [
    "ContentInfo",
    "Descriptor",
    "Happening",
    "Image",
    "IngestStatus",
    "Lease",
    "Namespace",
    "Platform",
    "References",
    "Referred",
    "Settings",
    "check_image",
    "is_plain",
    "is_root_no_more",
    "lets_go",
    "replace",
]


class Platform(NamedTuple):
    """What an image runs on: the `platform` of an index's descriptor."""

    os: str = ""
    architecture: str = ""
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()


class Descriptor(NamedTuple):
    """What names content: media type, digest and size, as in a manifest."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = EMPTY
    platform: Platform | None = None
    artifact_type: str = ""
    urls: tuple[str, ...] = ()
    data: str | None = None  # base64, as in the document
    unknown: Mapping[str, Any] = EMPTY


class Target(NamedTuple):
    """What gc needs to know of an image: where it leads, and its labels for gc."""

    digest: Digest
    media_type: str
    labels: Mapping[str, str]


class Image(NamedTuple):
    """A named record that points to a target."""

    name: str
    target: Descriptor
    labels: Mapping[str, str] = EMPTY
    created: int = 0
    updated: int = 0
    unknown: Mapping[str, Any] = EMPTY


class Referred(NamedTuple):
    """`References`, as gc needs them: the digests of the children, joined by spaces, and as many types.

    `labelled`: the record's labels for gc (`containerd.io/gc.ref.content…`) tell of the very same children,
    and nothing else.
    """

    media_type: str
    digests: str
    types: tuple[str, ...]
    subject: Digest | None
    labelled: bool = False


class References(NamedTuple):
    """What a manifest or index refers to, by its bytes: so it is right for ever.

    `media_type` is its own, `children` has those of all that it names but its `subject`.
    """

    media_type: str
    children: Mapping[Digest, str] = EMPTY
    subject: Digest | None = None
    unknown: Mapping[str, Any] = EMPTY

    @property
    def referred(self) -> Referred:
        """The same for gc."""
        return Referred(self.media_type, " ".join(self.children), tuple(self.children.values()), self.subject)


class ContentInfo(NamedTuple):
    """A content record: what makes an object visible in one namespace, with its labels there. Where it is a
    manifest or index, `references` may spare reading it.
    """

    digest: Digest
    size: int
    labels: Mapping[str, str] = EMPTY
    created: int = 0
    updated: int = 0
    unknown: Mapping[str, Any] = EMPTY
    references: References | None = None


class IngestStatus(NamedTuple):
    """An unfinished write."""

    ref: str
    offset: int  # bytes kept so far
    total: int  # bytes expected, 0 if not said
    started: int
    updated: int
    expires: int | None = None  # gc takes it after that; None: held by a lease
    expected: Digest | None = None


class Lease(NamedTuple):
    """A root for gc that is no image. `resources` maps a type (`content`, `ingests`, …) to its ids."""

    id: str
    labels: Mapping[str, str] = EMPTY
    resources: Mapping[str, tuple[str, ...]] = EMPTY
    created: int = 0
    unknown: Mapping[str, Any] = EMPTY


class Namespace(NamedTuple):
    """A namespace and its labels."""

    name: str
    labels: Mapping[str, str] = EMPTY
    created: int = 0
    unknown: Mapping[str, Any] = EMPTY


class Happening(NamedTuple):
    """A change of a record since the last gc; or, with `doubt`, why that cannot be told."""

    namespace: str
    deletes: bool = False  # an image, content or lease; or a lease or a label let go of something
    doubt: str = ""


def lets_go(before: Mapping[str, Collection[str]], after: Mapping[str, Collection[str]]) -> bool:
    """Whether a lease has let go of something, by the resources that it held and now holds. An ingest that
    has become content does not count; nothing tells that it has where the lease held that content before.
    """
    lost, come = (
        {type for type in one if not set(one[type]) <= set(other.get(type, ()))}
        for one, other in ((before, after), (after, before))
    )
    return bool(lost) and not (lost == {"ingests"} and "content" in come)


def is_root_no_more(before: Mapping[str, str], after: Mapping[str, str]) -> bool:
    """Whether gc started from content with the labels `before`, and does not any more."""
    return any(map(_is_root, before)) and not any(map(_is_root, after))


def _is_root(label: str) -> bool:
    return label == _ROOT or label.startswith((f"{_ROOT}.", f"{_ROOT}/"))


class Settings(NamedTuple):
    """How a store behaves, as its owner has set it: in imgtool.toml, see imgtool-store(5)."""

    sharing: str = "shared"  # or "isolated": whether a digest alone obtains what another namespace has
    follow: str = "graph"  # or "labels": whether gc reads manifests, beyond containerd's labels
    deletion_threshold: int = 0  # so many deletions make a gc due; 0: any
    mutation_threshold: int = 100  # so many changes make a gc due

    def lends(self, namespace: Namespace) -> bool:
        """Whether other namespaces get what this one has for its digest alone."""
        return self.sharing == "shared" or namespace.labels.get(SHAREABLE) == "true"


def replace(value: T, **changes: Any) -> T:
    """`value` with some of its fields changed."""
    return value._replace(**changes)


def check_image(image: Image) -> Image:
    """`image` without its empty labels and annotations, if a store may hold it.

    As containerd (`metadata/images.go`, `boltutil/helpers.go`): name and media type not empty,
    digest valid, size above 0, each label at most 4,096 bytes; an entry whose value is empty is
    not stored.

    Raises:
        InvalidArgument: it may not.
    """
    check_name(image.name)
    check_labels(image.labels)
    target = image.target
    Digest.parse(target.digest)
    if not target.media_type:
        raise InvalidArgument(f"image '{image.name}': target has no media type")
    check_name(target.media_type, "media type")
    if isinstance(target.size, bool) or not 0 < target.size <= SIZE_MAX:
        raise InvalidArgument(f"image '{image.name}': target has size {target.size}, expected more than 0")
    for unknown in (image.unknown, target.unknown):
        for key, value in unknown.items():
            if not is_plain(value):
                raise InvalidArgument(
                    f"image '{image.name}': '{key[:64]}' has a value that no record can hold"
                )
    for key, value in target.annotations.items():
        if "\0" in key + value:
            raise InvalidArgument(f"image '{image.name}': annotation '{key[:64]}' contains NUL")
    return replace(
        image,
        target=replace(target, annotations=without_empty(target.annotations)),
        labels=without_empty(image.labels),
    )


def without_empty(mapping: Mapping[str, str]) -> dict[str, str]:
    """`mapping` without the entries whose value is empty: writing such an entry removes it."""
    return {k: v for k, v in mapping.items() if v}


def is_plain(value: Any, depth: int = 0) -> bool:
    """Whether a record, a log and JSON can all hold `value`: text, a boolean, a number of 64 bits, or a
    list or table of such, at most 16 deep.
    """
    if isinstance(value, bool | str):
        return True
    if isinstance(value, int):
        return -SIZE_MAX - 1 <= value <= SIZE_MAX
    if isinstance(value, float):
        return value - value == 0  # finite
    if depth >= _NESTING_MAX:
        return False
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and is_plain(v, depth + 1) for k, v in value.items())
    return isinstance(value, list | tuple) and all(is_plain(item, depth + 1) for item in value)
