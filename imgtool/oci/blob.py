"""Read small content whole, and believe it only when size and digest fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgtool.digest import Digest
from imgtool.errors import DataLoss, ImgtoolError, InvalidArgument
from imgtool.model import Descriptor
from imgtool.oci.strictjson import LIMIT

if TYPE_CHECKING:
    from imgtool.stores import Provider


def read(
    provider: Provider,
    target: Descriptor | Digest,
    limit: int = LIMIT,
    *,
    wrong: type[ImgtoolError] = DataLoss,
) -> bytes:
    """The bytes of `target`, checked.

    Args:
        provider: where they are.
        target: a descriptor, whose size must fit as well, or a digest.
        limit: the largest content to read, in bytes.
        wrong: what to raise for bytes that are not those of `target`: DataLoss where the store
            vouched for them, FailedPrecondition where they come from outside.

    Raises:
        InvalidArgument: it is larger than `limit`; nothing is read.
        NotFound: `provider` does not have it.
    """
    digest = target.digest if isinstance(target, Descriptor) else target
    with provider.reader(digest) as reader:
        size = reader.size
        if isinstance(target, Descriptor) and size != target.size:
            raise wrong(f"content {digest} has {size} bytes, expected {target.size}")
        if size > limit:
            raise InvalidArgument(
                f"content {digest} has {size} bytes, at most {limit} are read as a document"
            )
        chunks = []
        left = size + 1
        while left and (chunk := reader.read(left)):
            chunks.append(chunk)
            left -= len(chunk)
    raw = b"".join(chunks)
    if len(raw) != size:
        raise wrong(f"content {digest} has {len(raw)} bytes or more, expected {size}")
    found = Digest.of(raw, digest.algorithm)
    if found != digest:
        raise wrong(f"content {digest} hashes to {found}")
    return raw


def document(provider: Provider, digest: Digest, size: int) -> bytes | None:
    """The bytes of content that may be a document, checked. None of other content, which is not read: it has
    another size than a document, or does not begin as JSON does.

    Args:
        provider: where they are.
        digest: its name.
        size: how many they are.

    Raises:
        NotFound: `provider` does not have it.
        DataLoss: it has other bytes.
    """
    if not 0 < size <= LIMIT:
        return None
    with provider.reader(digest) as reader:
        if not _begins_as_json(reader.read(1)):
            return None
    return read(provider, digest)


def _begins_as_json(start: bytes) -> bool:
    """Whether a document begins so, white space before it allowed; or would but for one wrong bit: then it
    is to be read, for its digest to show the damage.
    """
    return start in (b" ", b"\t", b"\r", b"\n") or any((byte ^ ord("{")).bit_count() <= 1 for byte in start)
