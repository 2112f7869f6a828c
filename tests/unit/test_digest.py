"""From text to a name in the objects tree. `cases/digests.json` has the cases of go-digest."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imgtool.digest import ALGORITHMS, Digest, new_hasher
from imgtool.errors import InvalidArgument

SHARED = Path(os.environ.get("IMGTOOL_SHARED") or Path(__file__).parents[3] / "shared")
CASES = SHARED / "cases" / "digests.json"
fuzz = settings(derandomize=bool(os.environ.get("CI")), deadline=None)

EMPTY = {
    "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "sha512": "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce"
    "47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e",
    "blake3": "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
}
HEX = EMPTY["sha256"]


def cases(op: str) -> list[Any]:
    """The shared cases of one kind; one that is skipped where the file is absent."""
    if not CASES.exists():
        return [pytest.param({}, marks=pytest.mark.skip(reason=f"no {CASES}; set IMGTOOL_SHARED"))]
    return [case for case in json.loads(CASES.read_text())["cases"] if case["op"] == op]


@pytest.mark.parametrize("case", cases("parse"), ids=lambda case: case.get("input", "")[:24])
def test_go_digests_cases_are_parsed_or_refused_alike(case: dict[str, Any]) -> None:
    """Where a case is optional (sha384, off by default there), imgtool refuses it as unsupported."""
    if case["valid"] and not case.get("optional"):
        digest = Digest.parse(case["input"])
        assert (digest, digest.algorithm, digest.encoded) == (
            case["input"],
            case["algorithm"],
            case["encoded"],
        )
        return
    with pytest.raises(InvalidArgument) as caught:
        Digest.parse(case["input"])
    # sha256 in upper case or base64 is refused there by its form; what is unknown, by its name.
    if case.get("error") == "ErrDigestUnsupported" or case.get("optional"):
        assert caught.value.message.startswith("unsupported digest algorithm")


@pytest.mark.parametrize("case", cases("verifier"), ids=lambda case: case.get("input", ""))
def test_go_digests_unsupported_digests_are_refused(case: dict[str, Any]) -> None:
    """Nothing is ever compared with such a digest."""
    with pytest.raises(InvalidArgument):
        Digest.parse(case["input"])


@pytest.mark.parametrize("case", cases("compute"), ids=lambda case: case.get("expected", "")[:16])
def test_digests_are_computed_as_elsewhere(case: dict[str, Any]) -> None:
    """The values of other implementations."""
    zeros = case["input_zero_bytes"]
    data = bytes(zeros) if zeros is not None else bytes.fromhex(case["input_hex"])
    assert Digest.of(data, case["algorithm"]) == case["expected"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_each_algorithm_has_its_published_digest_of_nothing(algorithm: str) -> None:
    """FIPS 180-4 and the BLAKE3 paper; a stream gives the same as all bytes at once."""
    assert Digest.of(b"", algorithm) == f"{algorithm}:{EMPTY[algorithm]}"
    hasher = new_hasher(algorithm)
    for piece in (b"a", b"", bytearray(b"b"), memoryview(b"c")):
        hasher.update(piece)
    assert Digest.from_hasher(algorithm, hasher) == Digest.of(b"abc", algorithm)
    assert Digest.parse(f"{algorithm}:{EMPTY[algorithm]}").algorithm == algorithm


@pytest.mark.parametrize(
    "text",
    [
        "sha256:../../../../etc/passwd",
        "sha256:" + "../" * 21 + ".",
        "sha256:" + HEX + "/",
        "sha256:" + HEX + "\n",
        "\nsha256:" + HEX,
        " sha256:" + HEX,
        "sha256:" + HEX + "\0",
        "sha256:" + HEX[:-1],
        "sha256:" + HEX + "0",
        "sha256:" + HEX.upper(),
        "sha256:" + HEX[:-1] + "F",
        "sha256:" + HEX[:-1] + "g",
        "sha256:" + HEX[:-1] + "٣",
        "sha256:" + HEX[:-1] + "１",
        "SHA256:" + HEX,
        "sha256::" + HEX,
        "sha256" + HEX,
        ":" + HEX,
        "sha256:sha256:" + HEX,
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        "sha512:" + HEX,
        "blake3:" + HEX * 2,
        "a" * 100000 + ":" + HEX,
    ],
)
def test_what_only_looks_like_a_digest_is_refused(text: str) -> None:
    """It would become a path: FAULTS T4. The message does not repeat 100,000 characters."""
    with pytest.raises(InvalidArgument) as caught:
        Digest.parse(text)
    assert len(caught.value.message) < 250


@pytest.mark.parametrize("value", [None, 5, True, 1.5, [], {}, b"sha256:" + HEX.encode()])
def test_what_is_no_text_is_no_digest(value: object) -> None:
    """JSON may have anything in that place."""
    with pytest.raises(InvalidArgument, match="expected text"):
        Digest.parse(value)


def test_a_digest_is_its_text() -> None:
    """Compared, sorted and printed as such, and parsed again as itself."""
    digest = Digest.parse("sha256:" + HEX)
    assert digest == "sha256:" + HEX == f"{digest}" == Digest.parse(digest)
    assert "sha256:" + HEX in {digest}
    assert digest.encoded == HEX


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha384", "SHA256", "", "sha256\n", "shake_128"])
def test_an_unknown_algorithm_is_refused(algorithm: str) -> None:
    """hashlib would know some of them."""
    for call in (lambda: new_hasher(algorithm), lambda: Digest.of(b"", algorithm)):
        with pytest.raises(InvalidArgument, match="unsupported digest algorithm"):
            call()


@fuzz
@given(st.text() | st.from_regex(r"(sha256|sha512|blake3|md5):[0-9a-fA-F]{60,66}"))
@example("sha256:" + HEX)
def test_any_text_is_a_safe_digest_or_an_invalid_argument(text: str) -> None:
    """No separator, no dot, no more than it should have."""
    try:
        digest = Digest.parse(text)
    except InvalidArgument:
        return
    assert digest == text
    assert digest.algorithm in ALGORITHMS
    assert len(digest.encoded) == len(EMPTY[digest.algorithm])
    assert set(digest.encoded) <= set("0123456789abcdef")


@fuzz
@given(st.binary(), st.sampled_from(ALGORITHMS))
def test_every_computed_digest_parses(data: bytes, algorithm: str) -> None:
    """So what is stored can be read."""
    digest = Digest.of(data, algorithm)
    assert Digest.parse(str(digest)) == digest
