"""Archives that mean harm, made by code: one `Case` each, by the threats that the store must survive.

Headers are written here byte by byte: no library would write most of them.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import struct
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

OCI, DOCKER = "oci-archive", "docker-archive"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
REF_NAME = "org.opencontainers.image.ref.name"
NAME = "hostile"
MIB = 1 << 20
END = bytes(1024)
CANARY = "canary"  # a file beside the store, which must stay as it is


class Case(NamedTuple):
    """One archive.

    Args:
        threat: its number in the table of threats, `T1`.
        name: what it does; with the threat it is unique.
        archive: its bytes, or what makes them where that takes time or memory.
        kind: what ingest is told that it is.
        code: the exit status that is due.
        says: what the message must have in it.
        kept: the names that an ingest leaves; none for what is refused.
    """

    threat: str
    name: str
    archive: bytes | Callable[[], bytes]
    kind: str = OCI
    code: int = 2
    says: str = ""
    kept: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.threat}-{self.name}"

    def build(self) -> bytes:
        return self.archive if isinstance(self.archive, bytes) else self.archive()


# --- tar ---------------------------------------------------------------------------------------------


def octal(number: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, number)


def base256(number: int) -> bytes:
    mark = 0xFF if number < 0 else 0x80
    return bytes([mark]) + (number % (1 << 88)).to_bytes(11, "big")


def header(name: bytes, size: int | bytes = 0, type: bytes = b"0", link: bytes = b"") -> bytes:
    """A header; a `size` of bytes is put into its field as it is."""
    field = size if isinstance(size, bytes) else octal(size, 12) if size < 8**11 else base256(size)
    fields = name[:100].ljust(100, b"\0") + b"0000644\0" + octal(0, 8) * 2 + field.ljust(12, b"\0")
    fields += octal(0, 12) + b" " * 8 + type + link[:100].ljust(100, b"\0") + b"ustar\x0000"
    block = fields.ljust(512, b"\0")
    return block[:148] + b"%06o\0 " % (sum(block[:148]) + 256 + sum(block[156:])) + block[156:]


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def member(name: str | bytes, data: bytes = b"", type: bytes = b"0", link: bytes = b"") -> bytes:
    raw = name.encode() if isinstance(name, str) else name
    long = pax((b"path", raw)) if len(raw) > 100 else b""
    return long + header(raw, len(data), type, link) + padded(data)


def record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    while len(b"%d" % length) + len(key) + len(value) + 3 != length:
        length = len(b"%d" % length) + len(key) + len(value) + 3
    return b"%d %s=%s\n" % (length, key, value)


def pax(*records: tuple[bytes, bytes], type: bytes = b"x") -> bytes:
    data = b"".join(record(*r) for r in records)
    return header(b"PaxHeaders/a", len(data), type) + padded(data)


# --- images ------------------------------------------------------------------------------------------


def doc(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def digest(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def descriptor(data: bytes, media_type: str = LAYER, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(data), "size": len(data)} | more


LAYER_DATA = b"a layer"
CONFIG_DATA = doc({"os": "linux", "architecture": "amd64"})
LAYOUT = doc({"imageLayoutVersion": "1.0.0"})
NAMED = {"annotations": {REF_NAME: NAME}}
TAGGED = f"docker.io/library/{NAME}:1"  # what `docker` is called


def manifest(**fields: Any) -> bytes:
    """An image manifest; `fields` take the place of its own, those that are ... are left out."""
    whole = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG_DATA, CONFIG),
        "layers": [descriptor(LAYER_DATA)],
    } | fields
    return doc({key: value for key, value in whole.items() if value is not ...})


def index(*manifests: dict[str, Any], **fields: Any) -> bytes:
    whole = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests} | fields
    return doc({key: value for key, value in whole.items() if value is not ...})


def blob(data: bytes, called: str | None = None) -> bytes:
    """The member of a blob, which its name may call something else."""
    return member(f"blobs/{(called or digest(data)).replace(':', '/', 1)}", data)


def oci(
    *members: bytes,
    root: bytes | None = None,
    root_index: bytes | None = None,
    layout: bytes = LAYOUT,
    layout_member: bytes | None = None,
    index_member: bytes | None = None,
    blobs: Sequence[bytes] = (LAYER_DATA, CONFIG_DATA),
) -> bytes:
    """An OCI archive of one image called NAME, whole unless something takes the place of a part.

    Args:
        members: more members, raw.
        root: its manifest.
        root_index: the whole `index.json`.
        layout_member: the whole member `oci-layout`, raw; so `index_member`.
        blobs: what lies below `blobs/` besides `root`.
    """
    root = manifest() if root is None else root
    document = index(descriptor(root, MANIFEST, **NAMED)) if root_index is None else root_index
    parts = [member("oci-layout", layout) if layout_member is None else layout_member]
    parts += [blob(data) for data in (root, *blobs)]
    parts += [member("index.json", document) if index_member is None else index_member, *members]
    return b"".join(parts) + END


def docker(
    *members: bytes,
    entries: Any = None,
    manifest_member: bytes | None = None,
    config: bytes = CONFIG_DATA,
    **entry: Any,
) -> bytes:
    """A docker archive of one image, whole unless something takes the place of a part.

    Args:
        members: more members, raw.
        entries: the whole list in `manifest.json`.
        entry: fields of its one entry.
    """
    one = {"Config": "config.json", "RepoTags": [f"{NAME}:1"], "Layers": ["layer.tar"]} | entry
    listed = member("manifest.json", doc([one] if entries is None else entries))
    parts = [member("config.json", config), member("layer.tar", LAYER_DATA), *members]
    return b"".join([*parts, listed if manifest_member is None else manifest_member]) + END


# --- the cases ---------------------------------------------------------------------------------------

PATHS = {
    "parent": "..",
    "beside": f"../{CANARY}",
    "far-up": f"../../../../../../../../tmp/{CANARY}",
    "absolute": "/etc/passwd",
    "two-slashes": f"//{CANARY}",
    "through-a-directory": f"a/../../{CANARY}",
    "backslash": f"..\\{CANARY}",
    "drive": f"C:\\{CANARY}",
    "below-blobs": f"blobs/../../{CANARY}",
    "deep-below-blobs": f"blobs/sha256/../../../{CANARY}",
    "many-parts": "../" * 600 + CANARY,
}


def t1_paths() -> Iterator[Case]:
    """T1: a member's name that would lead out."""
    for name, path in PATHS.items():
        evil = member(path, LAYER_DATA)
        yield Case(
            "T1",
            f"blob-at-{name}",
            oci(evil, blobs=[CONFIG_DATA]),
            says="missing",
        )
        yield Case(
            "T1",
            f"layer-at-{name}",
            docker(evil, Layers=[path]),
            DOCKER,
            says="no member",
        )
        yield Case("T1", f"besides-at-{name}", oci(evil), code=0, kept=(NAME,))
    root = member(".", LAYER_DATA)
    yield Case("T1", "layer-called-root", docker(root, Layers=["."]), DOCKER, code=0, kept=(TAGGED,))
    yield Case("T1", "slash-with-data", oci(member("../", LAYER_DATA)), says="directory")
    yield Case("T1", "config-outside", docker(Config=f"../{CANARY}"), DOCKER, says="no member")
    yield Case("T1", "layer-without-name", docker(Layers=[""]), DOCKER, says="no member")
    yield Case("T1", "name-with-nul", oci(pax((b"path", b"a\0b")) + member("a")), says="NUL")
    yield Case("T1", "name-of-5000", oci(member("a" * 5000)), says="4096")


def t2_links() -> Iterator[Case]:
    """T2: links where a file is due, and links that never end."""
    hex = digest(LAYER_DATA).partition(":")[2]
    for kind, type in (("symbolic", b"2"), ("hard", b"1")):
        for name, to in {"canary": f"../../../{CANARY}", "passwd": "/etc/passwd", "file": "stray"}.items():
            link = member(f"blobs/sha256/{hex}", type=type, link=to.encode())
            stray = member("stray", LAYER_DATA)
            yield Case(
                "T2",
                f"blob-is-{kind}-link-to-{name}",
                oci(link + stray, blobs=[CONFIG_DATA]),
                says="link",
            )
        for name in ("oci-layout", "index.json"):
            link = member(name, type=type, link=b"stray")
            stray = member("stray", LAYOUT)
            yield Case(
                "T2",
                f"{name}-is-{kind}-link",
                oci(stray, layout_member=link) if name == "oci-layout" else oci(stray, index_member=link),
                says=name,
            )
        link = member("manifest.json", type=type, link=b"stray")
        yield Case(
            "T2",
            f"manifest.json-is-{kind}-link",
            docker(member("stray", b"[]"), manifest_member=link),
            DOCKER,
            says="manifest.json",
        )
        for name, to in {"canary": f"../{CANARY}", "passwd": "/etc/passwd", "itself": "x/layer.tar"}.items():
            target = "layer.tar" if name == "itself" and kind == "symbolic" else to
            link = member("x/layer.tar", type=type, link=target.encode())
            yield Case(
                "T2",
                f"layer-is-{kind}-link-to-{name}",
                docker(link, Layers=["x/layer.tar"]),
                DOCKER,
                says="no member",
            )
    chain = b"".join(member(f"l{n}", type=b"2", link=b"l%d" % (n + 1)) for n in range(5000))
    yield Case("T2", "chain-of-5000", docker(chain, Layers=["l0"]), DOCKER, says="no member")
    loop = member("a", type=b"2", link=b"b") + member("b", type=b"2", link=b"a")
    yield Case("T2", "loop", docker(loop, Layers=["a"]), DOCKER, says="no member")
    data = header(b"l", 512, b"2", b"layer.tar") + bytes(512)
    yield Case("T2", "link-with-data", docker(data), DOCKER, says="'l'")


def t3_devices() -> Iterator[Case]:
    """T3: what is no regular file where one is due."""
    kinds = {"character": b"3", "block": b"4", "fifo": b"6", "directory": b"5", "unknown": b"Z"}
    root, hex = manifest(), digest(LAYER_DATA).partition(":")[2]
    places: dict[str, Callable[[bytes], bytes]] = {
        "oci-layout": lambda m: oci(layout_member=m),
        "index.json": lambda m: oci(index_member=m),
        f"blobs/{digest(root).replace(':', '/')}": lambda m: oci(
            m, root=b"other", root_index=index(descriptor(root, MANIFEST, **NAMED))
        ),
        f"blobs/sha256/{hex}": lambda m: oci(m, blobs=[CONFIG_DATA]),
        "manifest.json": lambda m: docker(manifest_member=m),
        "x.tar": lambda m: docker(m, Layers=["x.tar"]),
        "x.json": lambda m: docker(m, Config="x.json"),
    }
    for kind, type in kinds.items():
        for number, (name, build) in enumerate(places.items()):
            yield Case(
                "T3",
                f"{kind}-{number}",
                build(member(name, type=type)),
                DOCKER if number > 3 else OCI,
            )


ZEROS = "0" * 64
DIGESTS: dict[str, Any] = {
    "path": f"sha256:../../../{CANARY}",
    "slash": f"sha256/{ZEROS}",
    "no-hex": "sha256:",
    "no-algorithm": f":{ZEROS}",
    "short": f"sha256:{ZEROS[1:]}",
    "long": f"sha256:{ZEROS}0",
    "upper": f"sha256:{ZEROS[:-1]}A",
    "upper-algorithm": f"SHA256:{ZEROS}",
    "unicode-digits": "sha256:" + "٠" * 64,
    "newline": f"sha256:{ZEROS}\n",
    "newline-inside": f"sha256:{ZEROS[1:]}\n",
    "nul": f"sha256:{ZEROS[1:]}\0",
    "blank": f" sha256:{ZEROS}",
    "unknown": f"md5:{ZEROS[:32]}",
    "sha384": "sha384:" + "0" * 96,
    "null": None,
    "number": 5,
    "list": [f"sha256:{ZEROS}"],
    "very-long": "sha256:" + "0" * MIB,
    "escape": f"sha256:\x1b[2J{ZEROS}",
}
SIZES: dict[str, Any] = {
    "one-more": +1,
    "one-less": -1,
    "negative": "-1",
    "2-to-63": str(2**63),
    "2-to-64": str(2**64),
    "true": "true",
    "float": "7.0",
    "exponent": "7e0",
    "string": '"7"',
    "5000-digits": "9" * 5000,
    "null": "null",
    "array": "[7]",
    "minus-zero": "-0.0",
}


def t4_digests() -> Iterator[Case]:
    """T4: digests that are none."""
    for name, value in DIGESTS.items():
        evil = {"digest": value}
        config, layer = descriptor(CONFIG_DATA, CONFIG) | evil, descriptor(LAYER_DATA) | evil
        root = index(descriptor(manifest(), MANIFEST, **NAMED) | evil)
        yield Case("T4", f"root-{name}", oci(root_index=root), says="digest")
        yield Case("T4", f"config-{name}", oci(root=manifest(config=config)), says="digest")
        yield Case("T4", f"layer-{name}", oci(root=manifest(layers=[layer])), says="digest")
        subject = descriptor(b"subject", MANIFEST) | evil
        yield Case("T4", f"subject-{name}", oci(root=manifest(subject=subject)), says="digest")


def sized(data: bytes, media_type: str, size: Any, **more: Any) -> bytes:
    """A descriptor with a size that `json` would not write."""
    text = str(len(data) + size) if isinstance(size, int) else size
    return doc(descriptor(data, media_type, **more) | {"size": "SIZE"}).replace(b'"SIZE"', text.encode())


def t5_sizes() -> Iterator[Case]:
    """T5: sizes in descriptors."""
    for name, size in SIZES.items():
        code = 5 if isinstance(size, int) else 2
        root = manifest()
        wrong = index("ROOT").replace(b'"ROOT"', sized(root, MANIFEST, size, **NAMED))  # type: ignore[arg-type]
        config = manifest(config="C").replace(b'"C"', sized(CONFIG_DATA, CONFIG, size))
        layer = manifest(layers=["L"]).replace(b'"L"', sized(LAYER_DATA, LAYER, size))
        yield Case("T5", f"root-{name}", oci(root_index=wrong), code=code)
        yield Case("T5", f"config-{name}", oci(root=config), code=code)
        yield Case("T5", f"layer-{name}", oci(root=layer), code=code)
    two = [descriptor(LAYER_DATA), descriptor(LAYER_DATA) | {"size": 8}]
    yield Case("T5", "two-sizes", oci(root=manifest(layers=two)), says="two sizes")
    inline = descriptor(b"data") | {"data": "ZGF0", "size": 4}
    yield Case("T5", "inline-too-short", oci(root=manifest(layers=[inline])), says="data")


def t6_content() -> Iterator[Case]:
    """T6: content that is not what its digest says."""
    root, evil = manifest(), b"evil!!!"
    yield Case("T6", "layer", oci(blob(evil, digest(LAYER_DATA)), blobs=[CONFIG_DATA]), code=5)
    yield Case("T6", "config", oci(blob(evil, digest(CONFIG_DATA)), blobs=[LAYER_DATA]), code=5)
    named = index(descriptor(root, MANIFEST, **NAMED))
    yield Case("T6", "root", oci(blob(b"{}", digest(root)), root=evil, root_index=named), code=5)
    swapped = manifest(layers=[descriptor(b"other")])
    called = blob(swapped, digest(root))
    yield Case("T6", "another-manifest", oci(called, root=evil, root_index=named), code=5)
    long = descriptor(LAYER_DATA) | {"digest": digest(LAYER_DATA, "sha512")}
    yield Case(
        "T6",
        "sha512",
        oci(blob(evil, digest(LAYER_DATA, "sha512")), root=manifest(layers=[long])),
        code=5,
    )
    inline = descriptor(b"data") | {"data": "ZXZpbA=="}
    yield Case("T6", "inline", oci(root=manifest(layers=[inline])), says="data")
    path = f"blobs/{digest(LAYER_DATA).replace(':', '/')}"
    yield Case("T6", "docker-blob", docker(member(path, evil), Layers=[path]), DOCKER, code=5)
    config = doc({"os": "linux", "architecture": "arm", "rootfs": {"diff_ids": [digest(b"other")]}})
    yield Case("T6", "docker-diff-id", docker(config=config), DOCKER, code=5)
    two = doc({"os": "linux", "architecture": "arm", "rootfs": {"diff_ids": [digest(LAYER_DATA)] * 2}})
    yield Case("T6", "docker-diff-ids-too-many", docker(config=two), DOCKER)


def t7_two_kinds() -> Iterator[Case]:
    """T7: a document that two programs read as two kinds."""
    child = descriptor(manifest(), MANIFEST)
    roots: dict[str, bytes] = {
        "manifest-with-manifests": manifest(manifests=[child]),
        "manifest-with-empty-manifests": manifest(manifests=[]),
        "manifest-that-says-index": manifest(mediaType=INDEX),
        "manifest-that-says-docker": manifest(mediaType=DOCKER_MANIFEST),
        "manifest-that-says-nothing-known": manifest(mediaType="text/plain"),
        "manifest-that-says-a-number": manifest(mediaType=1),
        "manifest-in-another-case": manifest(Layers=[]),
        "manifests-in-another-case": manifest(Manifests=[]),
        "schema-1": doc({"schemaVersion": 1, "fsLayers": [], "name": "a"}),
        "schema-1-and-2": manifest(fsLayers=[]),
        "version-1": manifest(schemaVersion=1),
        "version-text": manifest(schemaVersion="2"),
        "version-true": manifest(schemaVersion=True),
        "version-float": manifest(schemaVersion=2.0),
        "no-version": manifest(schemaVersion=...),
        "no-config": manifest(config=...),
        "config-null": manifest(config=None),
        "layers-object": manifest(layers={}),
        "layers-of-text": manifest(layers=["sha256:0"]),
        "annotations-list": manifest(annotations=[]),
        "annotation-number": manifest(annotations={"a": 1}),
    }
    for name, root in roots.items():
        yield Case("T7", name, oci(root=root))
    indexes: dict[str, dict[str, Any]] = {
        "index-with-layers": {"layers": []},
        "index-with-config": {"config": descriptor(CONFIG_DATA, CONFIG)},
        "index-that-says-manifest": {"mediaType": MANIFEST},
        "index-in-another-case": {"MANIFESTS": []},
        "index-without-version": {"schemaVersion": ...},
        "manifests-object": {"manifests": {}},
        "manifests-of-numbers": {"manifests": [1]},
    }
    for name, fields in indexes.items():
        whole = index(descriptor(manifest(), MANIFEST, **NAMED), **fields)
        yield Case("T7", name, oci(root_index=whole))
    plain = manifest(mediaType=...)
    both = index(descriptor(plain, MANIFEST, **NAMED), descriptor(plain, DOCKER_MANIFEST))
    yield Case("T7", "one-digest-two-kinds", oci(root=plain, root_index=both))
    inner = index(descriptor(manifest(), MANIFEST))
    wrong = index(descriptor(inner, MANIFEST, **NAMED))
    yield Case("T7", "index-called-manifest", oci(blob(manifest()), root=inner, root_index=wrong))


JSON_TRICKS: dict[str, Callable[[bytes], bytes]] = {
    "key-twice": lambda raw: raw.replace(b"{", b'{"a":1,"a":2,', 1),
    "deep": lambda raw: b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "65-deep": lambda raw: raw.replace(b"{", b'{"a":' + b"[" * 65 + b"]" * 65 + b",", 1),
    "huge-integer": lambda raw: raw.replace(b"{", b'{"a":' + b"9" * 5000 + b",", 1),
    "2-to-64": lambda raw: raw.replace(b"{", b'{"a":%d,' % 2**64, 1),
    "huge-exponent": lambda raw: raw.replace(b"{", b'{"a":1e999,', 1),
    "nan": lambda raw: raw.replace(b"{", b'{"a":NaN,', 1),
    "infinity": lambda raw: raw.replace(b"{", b'{"a":-Infinity,', 1),
    "utf-16": lambda raw: raw.decode().encode("utf-16"),
    "byte-order-mark": lambda raw: b"\xef\xbb\xbf" + raw,
    "lone-surrogate": lambda raw: raw.replace(b"{", b'{"\\ud800":1,', 1),
    "not-utf-8": lambda raw: raw.replace(b"{", b'{"\xff":1,', 1),
    "overlong": lambda raw: raw.replace(b"{", b'{"\xc0\xae":1,', 1),
    "trailing": lambda raw: raw + b"{}",
    "trailing-nul": lambda raw: raw + b"\0",
    "cut-off": lambda raw: raw[: len(raw) // 2],
    "empty": lambda raw: b"",
    "null": lambda raw: b"null",
    "text": lambda raw: b'"text"',
    "comment": lambda raw: b"/* */" + raw,
    "escape": lambda raw: b'{"\x1b[2J":1}',
    "5-mib": lambda raw: raw + b" " * (5 * MIB),
}


def swollen(raw: bytes) -> bytes:
    """`raw` with a key of nearly 4 MiB that takes thirty times as much memory."""
    return raw.replace(b"{", b'{"a":[' + b"{}," * 1_300_000 + b"{}],", 1)


def t8_json() -> Iterator[Case]:
    """T8: JSON tricks, in every document that is read."""
    config = {"os": "linux", "architecture": "amd64"}
    entry = doc([{"Config": "config.json", "RepoTags": [f"{NAME}:1"], "Layers": ["layer.tar"]}])
    places: dict[str, tuple[bytes, Callable[[bytes], bytes], str]] = {
        "oci-layout": (LAYOUT, lambda raw: oci(layout=raw), OCI),
        "index.json": (
            index(descriptor(manifest(), MANIFEST, **NAMED)),
            lambda raw: oci(root_index=raw),
            OCI,
        ),
        "manifest": (manifest(), lambda raw: oci(root=raw), OCI),
        "manifest.json": (entry, lambda raw: docker(manifest_member=member("manifest.json", raw)), DOCKER),
        "config": (doc(config), lambda raw: docker(config=raw), DOCKER),
    }
    for place, (raw, build, kind) in places.items():
        for name, trick in JSON_TRICKS.items():
            large = name == "5-mib"
            make = partial(lambda build, trick, raw: build(trick(raw)), build, trick, raw)
            yield Case("T8", f"{place}-{name}", make if large else make(), kind)
        kept = NAME if kind == OCI else TAGGED
        make = partial(lambda build, raw: build(swollen(raw)), build, raw)
        yield Case("T8", f"{place}-swollen", make, kind, code=0, kept=(kept,))
    for name, value in {
        "2.0.0": "2.0.0",
        "number": 1,
        "null": None,
        "newline": "1.0.0\n",
        "escape": "1\x1b[2J",
    }.items():
        layout = doc({"imageLayoutVersion": value})
        yield Case("T8", f"layout-version-{name}", oci(layout=layout), says="ersion")
    for name, entries in {
        "object": {},
        "no-images": [],
        "numbers": [1],
        "no-config": [{"Layers": []}],
        "config-number": [{"Config": 1, "Layers": []}],
        "layers-text": [{"Config": "config.json", "Layers": "layer.tar"}],
        "layers-numbers": [{"Config": "config.json", "Layers": [1]}],
        "tags-text": [{"Config": "config.json", "RepoTags": "a:1"}],
        "config-in-two-cases": [{"Config": "config.json", "config": "x"}],
        "long-key-in-two-cases": [{"a" * MIB: 1, "A" * MIB: 1}],
        "long-layer": [{"Config": "config.json", "Layers": ["a" * MIB]}],
    }.items():
        yield Case("T8", f"manifest.json-{name}", docker(entries=entries), DOCKER)
    platform = doc({"os": 1, "architecture": []})
    yield Case("T8", "config-platform-number", docker(config=platform), DOCKER, says="platform")


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda raw: gzip.compress(raw, 6, mtime=0),
    "xz": lambda raw: lzma.compress(raw, preset=1),
    "bzip2": bz2.compress,
    "zstd": lambda raw: zstd.compress(raw, options={zstd.CompressionParameter.checksum_flag: 1}),
}


def t10_bombs() -> Iterator[Case]:
    """T10: little that becomes much."""
    for name, compress in COMPRESSIONS.items():
        size = 128 * MIB if name != "bzip2" else 32 * MIB
        for what, make, code in (("blob", huge_blob, 5), ("index.json", huge_index, 2), ("zeros", bytes, 2)):
            packed = partial(lambda compress, make, size: compress(make(size)), compress, make, size)
            yield Case("T10", f"{name}-{what}", packed, code=code)
        small = compress(oci())
        yield Case("T10", f"{name}-twice", compress(small), says="no tar")
        yield Case("T10", f"{name}-cut-off", small[:-9], says=name)
        yield Case("T10", f"{name}-damaged", damaged(compress(oci(noise()))))
        yield Case("T10", f"{name}-more-behind", small + compress(b"") + small[:20])
    yield Case("T10", "gzip-of-100000-streams", lambda: gzip.compress(b"", mtime=0) * 100_000)
    yield Case("T10", "xz-window-of-1-gib", xz_window(30), says="xz")
    yield Case("T10", "zstd-window-of-2-gib", zstd_window(21), says="zstd")
    yield Case("T10", "zstd-skips-only", lambda: struct.pack("<II", 0x184D2A50, 8) * 50_000)


def huge_blob(size: int) -> bytes:
    """A blob of `size` zeros, where seven bytes are due."""
    name = f"blobs/{digest(LAYER_DATA).replace(':', '/')}"
    return oci(header(name.encode(), size) + bytes(size), blobs=[CONFIG_DATA])


def huge_index(size: int) -> bytes:
    return oci(index_member=header(b"index.json", size) + bytes(size))


def noise() -> bytes:
    """A member that does not compress, so that there is something to damage."""
    blocks = [hashlib.sha256(b"%d" % n).digest() for n in range(8192)]
    return member("noise", b"".join(blocks))


def damaged(raw: bytes) -> bytes:
    middle = len(raw) // 2
    return raw[:middle] + bytes(byte ^ 0xFF for byte in raw[middle : middle + 64]) + raw[middle + 64 :]


def xz_window(log: int) -> bytes:
    """An xz stream that asks for a window of 2^`log` bytes."""
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << log, "mode": lzma.MODE_FAST, "mf": lzma.MF_HC3}]
    small = lzma.compress(oci(), format=lzma.FORMAT_XZ, filters=[{**filters[0], "dict_size": 1 << 20}])
    # The size of the window is one byte of the block header, which has a checksum of its own.
    head = bytearray(small[12 : 12 + (small[12] + 1) * 4])
    at = head.index(b"\x21\x01") + 2
    head[at] = 2 * (log - 12)
    head[-4:] = struct.pack("<I", zlib.crc32(head[:-4]))
    return small[:12] + bytes(head) + small[12 + len(head) :]


def zstd_window(exponent: int) -> bytes:
    """A zstd frame that asks for a window of 2^(10 + `exponent`) bytes, with one block of zeros in it."""
    block = struct.pack("<I", 1 << 3 | 1 << 1 | 1)[:3] + b"\0"
    return struct.pack("<IBB", 0xFD2FB528, 0, exponent << 3) + block


def t11_headers() -> Iterator[Case]:
    """T11: tar headers that loop, swell, or mean two things."""
    name = b"blobs/x"
    sizes = {
        "2-to-95": base256(0)[:1] + b"\x7f" + b"\xff" * 10,
        "2-to-63": base256(2**63),
        "negative": base256(-512),
        "minus-one": base256(-1),
        "letters": b"zzzzzzzzzzz\0",
        "eights": b"00000000008\0",
        "8-gib-of-nothing": octal(8**11 - 1, 12),
        "1-eib": base256(1 << 60),
    }
    for what, size in sizes.items():
        evil = header(name, size)
        yield Case("T11", f"size-{what}", oci(evil), says="blobs/x")
    big = header(b"index.json", base256(1 << 50))
    yield Case("T11", "index.json-of-1-pib", oci(index_member=big), says="index.json")
    data = LAYER_DATA
    evil_members: dict[str, bytes] = {
        "pax-size-differs": pax((b"size", b"1024")) + member("a", data),
        "pax-size-huge": pax((b"size", b"9" * 19)) + header(b"a"),
        "pax-size-letters": pax((b"size", b"1x")) + header(b"a"),
        "pax-size-negative": pax((b"size", b"-1")) + header(b"a"),
        "pax-path-twice": pax((b"path", b"a"), (b"path", b"b")) + header(b"c"),
        "pax-path-for-all": pax((b"path", b"a"), type=b"g") + header(b"c"),
        "pax-size-for-all": pax((b"size", b"7"), type=b"g") + member("c", data),
        "pax-path-of-1-mib": pax((b"path", b"a" * (MIB - 20))) + header(b"a"),
        "pax-of-64-mib": header(b"pax", 64 * MIB, b"x"),
        "pax-record-too-long": header(b"pax", 12, b"x") + padded(b"99 path=abc\n") + header(b"a"),
        "pax-record-without-end": header(b"pax", 11, b"x") + padded(b"12 path=abc") + header(b"a"),
        "pax-record-without-equals": header(b"pax", 8, b"x") + padded(b"8 path0\n") + header(b"a"),
        "pax-length-of-5000-digits": header(b"pax", 5008, b"x") + padded(b"1" * 5000 + b" path=a\n"),
        "pax-chain-of-5000": pax((b"comment", b"a")) * 5000 + header(b"a"),
        "pax-and-nothing": pax((b"path", b"a")),
        "long-name-of-2-mib": header(b"././@LongLink", 2 * MIB, b"L") + bytes(2 * MIB),
        "long-name-and-pax": header(b"@", 2, b"L") + padded(b"b\0") + pax((b"path", b"a")) + header(b"c"),
        "sparse": header(b"a", 512, b"S") + bytes(512),
        "sparse-pax": pax((b"GNU.sparse.major", b"1")) + member("a", data),
        "volume": header(b"a", 0, b"M"),
        "directory-with-data": header(b"a/", 512, b"5") + bytes(512),
        "checksum": header(b"a")[:150] + b"777777" + header(b"a")[156:],
        "lone-block-of-zeros": bytes(512) + header(b"a"),
    }
    for what, evil in evil_members.items():
        whole = evil + oci()
        yield Case("T11", what, whole)
    yield Case("T11", "header-cut-off", oci()[:700])
    yield Case("T11", "data-cut-off", oci(header(b"a", 5 * MIB))[:-1024])
    yield Case("T11", "no-bytes", b"", says="no tar")
    yield Case("T11", "one-byte", b"a", says="no tar")
    yield Case("T11", "noise", noise()[512:], says="no tar")
    yield Case("T11", "end-only", END * 10, says="oci-layout")
    yield Case(
        "T11",
        "100001-members",
        lambda: zstd.compress(b"".join(member(f"{n}", b"%d" % n) for n in range(100_001))),
        says="100000",
    )
    yield Case(
        "T11",
        "names-of-100-mib",
        lambda: zstd.compress(b"".join(member(f"{n}".zfill(4000)) for n in range(25_000))),
        says="names",
    )


def t12_duplicates() -> Iterator[Case]:
    """T12: a member that is there twice."""
    other = index(descriptor(manifest(), MANIFEST, annotations={REF_NAME: "other"}))
    yield Case("T12", "index.json", oci(member("index.json", other)), says="twice")
    yield Case("T12", "index.json-dotted", oci(member("./index.json", other)), says="twice")
    yield Case("T12", "oci-layout", oci(member("oci-layout", LAYOUT + b" ")), says="twice")
    yield Case("T12", "manifest.json", docker(member("manifest.json", b"[]")), DOCKER, says="twice")
    yield Case("T12", "layer", docker(member("layer.tar", b"other")), DOCKER, says="twice")
    yield Case("T12", "large-layer", docker(member("layer.tar", bytes(MIB))), DOCKER, says="twice")
    yield Case("T12", "config", docker(member("./config.json", b"{}")), DOCKER, says="twice")
    evil = blob(b"evil!!!", digest(LAYER_DATA))
    yield Case("T12", "blob-and-then-other-bytes", oci(evil), code=0, kept=(NAME,))
    yield Case("T12", "blob-after-other-bytes", evil + oci(), code=0, kept=(NAME,))
    large = blob(bytes(MIB), digest(LAYER_DATA))
    yield Case("T12", "blob-and-then-many-bytes", oci(large), code=0, kept=(NAME,))
    yield Case("T12", "blob-after-many-bytes", large + oci(), code=0, kept=(NAME,))
    same = member("index.json", index(descriptor(manifest(), MANIFEST, **NAMED)))
    yield Case("T12", "index.json-the-same", oci(same), code=0, kept=(NAME,))


def t13_graphs() -> Iterator[Case]:
    """T13: graphs without end, or without bounds."""
    yield Case("T13", "33-levels", nested(33), says="levels")
    yield Case("T13", "3000-levels", lambda: nested(3000), says="levels")
    yield Case("T13", "2-to-30-paths", doubled, code=0, kept=(NAME,))
    absent = [descriptor(b"%d" % n) for n in range(20_000)]
    yield Case("T13", "20000-missing-layers", lambda: oci(root=manifest(layers=absent)), says="more missing")
    away = [descriptor(b"%d" % n, MANIFEST) for n in range(20_000)]
    yield Case("T13", "20000-absent-manifests", lambda: sparse(away), code=0, says="19980 more", kept=(NAME,))
    same = [descriptor(LAYER_DATA)] * 25_000
    yield Case("T13", "one-layer-25000-times", lambda: oci(root=manifest(layers=same)), code=0, kept=(NAME,))
    yield Case("T13", "120000-descriptors", lambda: zstd.compress(wide()), says="100000")
    yield Case("T13", "large-annotations", lambda: zstd.compress(fat()), code=0, kept=(NAME,))
    yield Case("T13", "fat-documents-nested", lambda: zstd.compress(fat_nested()))
    cycle = index(descriptor(b"", INDEX) | {"digest": f"sha256:{ZEROS}", "size": 100})
    yield Case(
        "T13",
        "cycle",
        oci(
            blob(cycle, f"sha256:{ZEROS}"),
            root_index=index({"mediaType": INDEX, "digest": f"sha256:{ZEROS}", "size": len(cycle)} | NAMED),
        ),
        code=5,
    )
    one = {"Config": "config.json", "Layers": ["layer.tar"] * 300_000}
    yield Case("T13", "300000-layers", lambda: docker(entries=[one]), DOCKER)
    tags = {"Config": "config.json", "RepoTags": ["a"] * 900_000}
    yield Case("T13", "900000-names", lambda: docker(entries=[tags]), DOCKER)
    entries = [{"Config": "config.json"}] * 150_000
    yield Case("T13", "150000-images", lambda: docker(entries=entries), DOCKER)
    large = doc({"os": "linux", "architecture": "amd64", "a": ["x" * 10] * 250_000})
    many = [{"Config": "config.json", "RepoTags": [f"a:{n}"]} for n in range(2000)]
    yield Case(
        "T13",
        "large-config-2000-times",
        lambda: docker(config=large, entries=many),
        DOCKER,
        code=0,
        kept=tuple(f"docker.io/library/a:{n}" for n in range(2000)),
    )


def sparse(away: list[dict[str, Any]]) -> bytes:
    """An index of manifests that are not there, which is allowed."""
    root = index(descriptor(manifest(), MANIFEST), *away)
    return oci(blob(manifest()), root=root, root_index=index(descriptor(root, INDEX, **NAMED)))


def nested(levels: int) -> bytes:
    """An index in an index in an index."""
    blobs, inner = [LAYER_DATA, CONFIG_DATA], manifest()
    media_type = MANIFEST
    for _ in range(levels):
        blobs.append(inner)
        inner, media_type = index(descriptor(inner, media_type)), INDEX
    return oci(root=inner, blobs=blobs, root_index=index(descriptor(inner, INDEX, **NAMED)))


def doubled() -> bytes:
    """Each of two indexes of a level lists both of the level below: 2^30 ways from the root to the leaf."""
    blobs = [LAYER_DATA, CONFIG_DATA, manifest()]
    below = [descriptor(manifest(), MANIFEST)]
    for _ in range(30):
        two = [index(*below, annotations={"side": side}) for side in ("left", "right")]
        blobs += two
        below = [descriptor(raw, INDEX) for raw in two]
    root = index(*below)
    return oci(root=root, blobs=blobs, root_index=index(descriptor(root, INDEX, **NAMED)))


def wide() -> bytes:
    """More descriptors than are walked, in eight manifests."""
    manifests = [
        manifest(layers=[descriptor(b"%d %d" % (part, n)) for n in range(15_000)]) for part in range(8)
    ]
    root = index(*(descriptor(raw, MANIFEST) for raw in manifests))
    return oci(
        root=root,
        blobs=[CONFIG_DATA, *manifests],
        root_index=index(descriptor(root, INDEX, **NAMED)),
    )


def fat() -> bytes:
    """Manifests whose annotations take 12 MiB each, which nobody may keep in memory together: of a text
    with one wide character every character takes four bytes.
    """
    manifests = [manifest(annotations={"a": f"{n} \N{PACKAGE}" + "x" * (3 * MIB)}) for n in range(30)]
    root = index(*(descriptor(raw, MANIFEST) for raw in manifests))
    return oci(
        root=root,
        blobs=[LAYER_DATA, CONFIG_DATA, *manifests],
        root_index=index(descriptor(root, INDEX, **NAMED)),
    )


def fat_nested() -> bytes:
    """Indexes one in another, each with a descriptor of 3.9 MiB that stays open while its child is read."""
    blobs, inner, media_type = [LAYER_DATA, CONFIG_DATA], manifest(), MANIFEST
    for _ in range(30):
        blobs.append(inner)
        inner = index(descriptor(inner, media_type, more="MORE")).replace(
            b'"MORE"', b"[" + b"[0]," * 950_000 + b"[0]]"
        )
        media_type = INDEX
    return oci(root=inner, blobs=blobs, root_index=index(descriptor(inner, INDEX, **NAMED)))


KEPT_NAMES = {
    "up": "../../etc/passwd",
    "absolute": "/etc/passwd",
    "dot": ".",
    "dots": "..",
    "option": "-rf",
    "slash": "a/b",
    "lock": "a.lock",
    "toml": "a.toml",
    "newline": "a\nb: forged",
    "escape": "\x1b[2Jgone",
    "c1": "\x9b31m",
    "right-to-left": "a\u202egnp.exe",
    "5000": "a" * 5000,
    "percent": "%2E%2E%2F",
    "blank": " ",
}


def t14_names() -> Iterator[Case]:
    """T14: names that are no file names. What may be a name is kept, exactly; the rest is refused."""
    for what, name in KEPT_NAMES.items():
        yield Case("T14", f"kept-{what}", called(name), code=0, kept=(name,))
    yield Case("T14", "nul", called("a\0b"), says="NUL")
    yield Case("T14", "40000", called("a" * 40_000), says="40000")
    yield Case("T14", "1-mib", lambda: called("a" * MIB), says="image name")
    yield Case("T14", "number", called(5))
    yield Case("T14", "list", called(["a"]))
    two = index(
        descriptor(manifest(), MANIFEST, annotations={REF_NAME: "a" * MIB}),
        descriptor(b"x", MANIFEST, annotations={REF_NAME: "a" * MIB}),
    )
    yield Case("T14", "two-with-one-long-name", oci(root_index=two))
    for what, tag in {
        "up": "../../etc/passwd:1",
        "upper": "UPPER:1",
        "newline": "a:1\n",
        "escape": "a\x1b[2J:1",
        "empty": "",
        "blank": "a b:1",
        "nul": "a\0:1",
        "long": "a" * 300 + ":1",
        "very-long": "a" * MIB,
        "long-tag": "a:" + "b" * 129,
        "bad-digest": "a@sha256:0",
        "scheme": "https://registry.example/a:1",
        "hash": "a" * 63 + "/" * 100,
    }.items():
        yield Case("T14", f"tag-{what}", docker(RepoTags=[tag]), DOCKER)


def called(name: Any) -> bytes:
    return oci(root_index=index(descriptor(manifest(), MANIFEST, annotations={REF_NAME: name})))


ESCAPES = {
    "clear": "\x1b[2J\x1b[H",
    "title": "\x1b]0;owned\x07",
    "newline": "\nimgtool: all is well\n",
    "return": "\rimgtool: all is well",
    "c1": "\x9b2J",
    "right-to-left": "\u202eelif a",
    "zero-width": "a\u200bb\u2028c",
    "backspace": "\x08\x08\x08",
}


def t15_escapes() -> Iterator[Case]:
    """T15: text for a terminal, where a message may show it."""
    for what, text in ESCAPES.items():
        layer = descriptor(LAYER_DATA, text)
        url = descriptor(b"", urls=[text])
        for place, archive, kind in (
            ("media-type", oci(root=manifest(layers=[layer])), OCI),
            ("digest", oci(root=manifest(layers=[layer | {"digest": text}])), OCI),
            ("member", oci(header(text.encode(), b"zzz")), OCI),
            ("twice", docker(member(text, b"a"), member(text, b"b")), DOCKER),
            ("layer", docker(Layers=[text]), DOCKER),
            ("tag", docker(RepoTags=[text]), DOCKER),
            ("annotation", oci(root=manifest(annotations={text: 1})), OCI),
            ("key", oci(root=doc({text: 1})), OCI),
            ("stated", oci(root=manifest(mediaType=text)), OCI),
            ("url", oci(root=manifest(layers=[url])), OCI),
        ):
            yield Case("T15", f"{place}-{what}", archive, kind)


def cases() -> list[Case]:
    """All of them."""
    threats = (
        t1_paths,
        t2_links,
        t3_devices,
        t4_digests,
        t5_sizes,
        t6_content,
        t7_two_kinds,
        t8_json,
        t10_bombs,
        t11_headers,
        t12_duplicates,
        t13_graphs,
        t14_names,
        t15_escapes,
    )
    return [case for threat in threats for case in threat()]
