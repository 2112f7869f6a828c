"""Digests: the only way from text to a name in the objects tree, and the only list of algorithms.

The grammar and the registered algorithms are those of the OCI image-spec (descriptor.md, "Digests").
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from imgtool.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from typing_extensions import Buffer

SHA256 = "sha256"
SHA512 = "sha512"
BLAKE3 = "blake3"

# Algorithm -> length of its hexadecimal form.
_HEX_LENGTH = {SHA256: 64, SHA512: 128, BLAKE3: 64}
ALGORITHMS = tuple(_HEX_LENGTH)

_EXACT = re.compile("(?:sha256|blake3):[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_SYNTAX = re.compile(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[A-Za-z0-9=_-]+", re.ASCII)
_HEX = re.compile(r"[0-9a-f]+", re.ASCII)


class Hasher(Protocol):
    """What `hashlib` objects and blake3 have in common."""

    def update(self, data: Buffer, /) -> object: ...
    def hexdigest(self) -> str: ...


class Digest(str):
    """`algorithm:hex`, checked. Made by `parse` or `of`, compared and sorted as its text; of text that is
    known to come from a digest also by its name.
    """

    __slots__ = ()

    @classmethod
    def parse(cls, text: object) -> Self:
        """Check `text` and return it as a digest.

        Raises:
            InvalidArgument: not text, not the OCI grammar, an algorithm that imgtool does not
                have, or a hexadecimal part of the wrong length or in upper case.
        """
        if isinstance(text, str) and _EXACT.fullmatch(text):
            return str.__new__(cls, text)
        if not isinstance(text, str):
            raise InvalidArgument(f"digest is {_kind(text)}, expected text such as sha256:…")
        if not _SYNTAX.fullmatch(text):
            raise InvalidArgument(f"invalid digest '{text[:140]}'")
        algorithm, _, encoded = text.partition(":")
        length = _HEX_LENGTH.get(algorithm)
        if length is None:
            raise InvalidArgument(
                f"unsupported digest algorithm '{algorithm[:40]}'",
                hint=f"imgtool has {', '.join(ALGORITHMS)}",
            )
        if len(encoded) != length:
            raise InvalidArgument(
                f"invalid digest '{text[:140]}': {len(encoded)} digits, {algorithm} has {length}"
            )
        if not _HEX.fullmatch(encoded):
            raise InvalidArgument(f"invalid digest '{text}': digits must be 0-9a-f")
        return str.__new__(cls, text)

    @classmethod
    def of(cls, data: Buffer, algorithm: str = SHA256) -> Self:
        """The digest of bytes in memory."""
        if algorithm == SHA256:  # of every record that is read
            from hashlib import sha256

            return str.__new__(cls, "sha256:" + sha256(data).hexdigest())
        h = new_hasher(algorithm)
        h.update(data)
        return cls.from_hasher(algorithm, h)

    @classmethod
    def from_hasher(cls, algorithm: str, hasher: Hasher) -> Self:
        """The digest of what `hasher`, made by `new_hasher(algorithm)`, has seen."""
        return str.__new__(cls, f"{algorithm}:{hasher.hexdigest()}")

    @property
    def algorithm(self) -> str:
        return self[: self.index(":")]

    @property
    def encoded(self) -> str:
        """The hexadecimal part."""
        return self[self.index(":") + 1 :]


def new_hasher(algorithm: str) -> Hasher:
    """A fresh hasher.

    Raises:
        InvalidArgument: imgtool does not have `algorithm`.
    """
    if algorithm == BLAKE3:
        from blake3 import blake3

        return blake3()
    if algorithm in _HEX_LENGTH:
        import hashlib

        return hashlib.new(algorithm)
    raise InvalidArgument(
        f"unsupported digest algorithm '{algorithm[:40]}'", hint=f"imgtool has {', '.join(ALGORITHMS)}"
    )


def completing(start: str, rests: Sequence[str]) -> Sequence[str]:
    """Those of `rests` that make a digest of `start`, the start of one."""
    if rests and _EXACT.fullmatch(start + rests[0]) and len(set(map(len, rests))) == 1:
        digits = "".join(rests)
        with suppress(ValueError):
            if bytes.fromhex(digits).hex() == digits:  # a fifth of what a pattern takes
                return rests
    return [rest for rest in rests if _EXACT.fullmatch(start + rest)]


def _kind(value: object) -> str:
    return "null" if value is None else f"a {type(value).__name__}"
