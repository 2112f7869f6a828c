"""Records that are read at once: as the general way reads them, or not at all. `imgtool.disk.plain`."""

from __future__ import annotations

import pytest

from imgtool.digest import Digest
from imgtool.disk import codec, plain, records
from imgtool.model import ContentInfo, Descriptor, Image, References
from imgtool.names import for_gc

DIGEST = Digest.of(b"x")
IMAGE = Image("a/b:1", Descriptor("text/plain", DIGEST, 1), {"k": "v", "ä b": ""}, 1, 2)
CONTENT = ContentInfo(DIGEST, 5, {"containerd.io/gc.root": "yes"}, 3, 3)
CHILDREN = {Digest.of(b"a"): "text/b", Digest.of(b"c", "sha512"): "", Digest.of(b"e", "blake3"): "ä é"}
DOCUMENTS = [
    CONTENT._replace(references=References("a/b", CHILDREN, DIGEST)),
    CONTENT._replace(labels={}, references=References("a/b", CHILDREN)),
    CONTENT._replace(references=References("a/b", {}, DIGEST)),
    CONTENT._replace(references=References("a/b")),
]

BODIES = [
    codec.dump(record, "").rsplit(b"# ", 1)[0]
    for record in (
        records.image_to_record(IMAGE),
        records.image_to_record(IMAGE._replace(labels={})),
        records.content_to_record(CONTENT),
        records.content_to_record(CONTENT._replace(labels={})),
        *map(records.content_to_record, DOCUMENTS),
    )
]
TIMES = [
    f"{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"
    for year, month, day, hour, minute, second in [
        *((2023, month, day, 0, 0, 0) for month in range(14) for day in (0, 1, 28, 29, 30, 31, 32)),
        *((year, 2, day, 0, 0, 0) for year in ("0000", "0001", 2024, 2100, 9999) for day in (28, 29)),
        *((2023, 1, 1, *clock) for clock in [(23, 59, 59), (24, 0, 0), (0, 60, 0), (0, 0, 60)]),
    ]
]

CHANGES = [
    (b"schema = 1", b"schema = 2"),
    (b"schema = 1", b"schema = 01"),
    (b"size = ", b"size = 9223372036854775808"),
    (b"size = ", b"size = 0"),
    (b"size = ", b"size = -"),
    (b"sha256:", b"sha256:0"),
    (b"sha256:", b"sha1:"),
    (b"sha256:", b"SHA256:"),
    (b"created", b"later = 1\ncreated"),
    (b"created", b"# no matter\ncreated"),
    (b'created = "1970', b'created = "1971-02-30'),
    (b'created = "1970', b'created = "\\u00311970'),
    *((b"1970-01-01T00:00:00", time.encode()) for time in TIMES),
    (b"updated", b"created"),
    (b"Z", b"+01:00"),
    (b"\n", b"\r\n"),
    (b"[labels]\n", b'[labels]\nk = "1"\nk = "2"\n'),
    (b"[labels]\n", b"[labels]\nk = 1\n"),
    (b"[labels]\n", b"[labels]\nk = 'v'\n"),
    (b"[labels]\n", b'[labels]\n"a\\nb" = "\\t"\n'),
    (b"[labels]\n", b'[labels]\n"" = ""\n'),
    (b"[labels]\n", b'[labels]\nother = "\xff"\n'),
    (b"[labels]\n", b'[labels]\nother = "\x01"\n'),
    (b"[labels]", b"[labels.more]"),
    (b"[labels]\n", b"[labels]\n\n"),
    (b"\n[labels]\n", b"\n[labels]\n\n[labels]\n"),
    (b"mediaType", b"artifactType"),
    (b"mediaType", b'more = "x"\nmediaType'),
    (b"[references.children]\n", b'[references.children]\nk = "v"\n'),
    (b"[references.children]\n", b"[references.children]\n\n"),
    (b"[references.children]\n", b"[references.children]\n[references.more]\n"),
    (b"[references.children]\n", b'[references.children]\n"%b" = "x"\n' % Digest.of(b"a").encode()),
    (b"[references.children]\n", b'[references.children]\n"%b" = 1\n' % Digest.of(b"b").encode()),
    (b"[references.children]\n", b'[references.children]\n"%b" = "\\t"\n' % Digest.of(b"b").encode()),
    (b"[references.children]", b"[labels]"),
    (b"[references]", b"[more]"),
    (b"[references]", b"[target]"),
    (b"subject", b"subjects"),
    (b'subject = "sha256:', b'subject = "sha1:'),
    (b'subject = "', b'subject = "x'),
    (b"[target]", b'[target]\ndata = "eA=="'),
]


def read(data: bytes, image: bool) -> Image | ContentInfo | None:
    return plain.image(data) if image else plain.content(data)


def test_what_imgtool_writes_is_plain() -> None:
    """Else it would only cost."""
    assert [read(body + codec.seal(body), b"target" in body) for body in BODIES] == [
        IMAGE,
        IMAGE._replace(labels={}),
        CONTENT,
        CONTENT._replace(labels={}),
        *DOCUMENTS,
    ]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize(("old", "new"), [(b"", b""), *CHANGES])
def test_what_is_read_at_once_is_what_the_general_way_reads(body: bytes, old: bytes, new: bytes) -> None:
    """And what that refuses is not read at once."""
    body = body.replace(old, new, 1) if old else body
    data, is_image = body + codec.seal(body), b"target" in body
    found = read(data, is_image)
    if found is not None:
        load = records.image_from_record if is_image else records.content_from_record
        assert found == load(codec.load(data, "x"), "x")
    in_short = plain.target(data) if is_image else plain.size(data)
    assert (in_short is None) == (found is None)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("extra", [b"", b'"containerd.io/gc.ref.x" = "yes"\n"k.gc." = "v"\n'])
def test_what_gc_reads_at_once_is_part_of_it(body: bytes, extra: bytes) -> None:
    """Of the labels those that are for gc."""
    body = body.replace(b"[labels]\n", b"[labels]\n" + extra)
    data = body + codec.seal(body)
    image, content = plain.image(data), plain.content(data)
    told = image and (image.name, image.target.digest, image.target.media_type, for_gc(image.labels))
    assert plain.target(data) == told
    referred = content and content.references and content.references.referred[:4]
    assert plain.size(data) == (content and (content.digest, content.size, for_gc(content.labels), referred))


@pytest.mark.parametrize("body", BODIES)
def test_a_bit_that_is_wrong_is_never_plain(body: bytes) -> None:
    """Wherever it is, in the seal too."""
    data = body + codec.seal(body)
    for at in range(len(data) * 8):
        wrong = bytearray(data)
        wrong[at // 8] ^= 1 << at % 8
        assert read(bytes(wrong), b"target" in body) is None
        assert plain.target(bytes(wrong)) is None
        assert plain.size(bytes(wrong)) is None


def test_a_record_without_a_seal_goes_the_general_way() -> None:
    """Somebody has edited it, in whatever form."""
    assert [read(body, b"target" in body) for body in BODIES] == [None] * len(BODIES)
