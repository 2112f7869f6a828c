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
