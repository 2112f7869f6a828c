"""Reading small content whole: what is returned is what was asked for, or nothing is."""

from __future__ import annotations

from pathlib import Path

import pytest

from imgtool.digest import ALGORITHMS, SHA256, Digest
from imgtool.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound
from imgtool.model import Descriptor
from imgtool.oci import blob
from imgtool.oci.layout import FileReader, Layout


def layout_with(path: Path, content: bytes, digest: Digest) -> Layout:
    (path / "blobs" / digest.algorithm).mkdir(parents=True)
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (path / "index.json").write_text('{"schemaVersion": 2, "manifests": []}')
    (path / "blobs" / digest.algorithm / digest.encoded).write_bytes(content)
    return Layout(str(path))


def named(digest: Digest, size: int) -> Descriptor:
    return Descriptor("text/plain", digest, size)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("content", [b"", b"x", bytes(range(256)) * 4096])
def test_content_is_returned_when_size_and_digest_fit(tmp_path: Path, content: bytes, algorithm: str) -> None:
    """In every algorithm, and to the last byte of a larger one."""
    digest = Digest.of(content, algorithm)
    with layout_with(tmp_path, content, digest) as layout:
        assert blob.read(layout, digest) == content
        assert blob.read(layout, named(digest, len(content))) == content


@pytest.mark.parametrize("wrong", [DataLoss, FailedPrecondition])
def test_content_that_does_not_hash_to_its_name_is_an_error_that_names_it(
    tmp_path: Path, wrong: type[DataLoss] | type[FailedPrecondition]
) -> None:
    """In the store it is a loss; from outside it is bytes other than stated."""
    digest = Digest.of(b"good")
    with layout_with(tmp_path, b"evil", digest) as layout, pytest.raises(wrong) as caught:
        blob.read(layout, digest, wrong=wrong)
    assert caught.value.message == f"content {digest} hashes to {Digest.of(b'evil')}"


@pytest.mark.parametrize("size", [0, 3, 5])
def test_content_of_another_size_is_an_error_before_it_is_read(tmp_path: Path, size: int) -> None:
    """Even where the digest would fit: one of the two numbers lies."""
    digest = Digest.of(b"good")
    with layout_with(tmp_path, b"good", digest) as layout, pytest.raises(DataLoss) as caught:
        blob.read(layout, named(digest, size))
    assert caught.value.message == f"content {digest} has 4 bytes, expected {size}"


def test_content_larger_than_the_limit_is_not_read(tmp_path: Path) -> None:
    """A layer that somebody calls a manifest must not fill the memory."""
    digest = Digest.of(b"12345678")
    with layout_with(tmp_path, b"12345678", digest) as layout:
        assert blob.read(layout, digest, 8) == b"12345678"
        with pytest.raises(InvalidArgument, match="has 8 bytes, at most 7 are read as a document"):
            blob.read(layout, digest, 7)


def test_content_that_grows_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    """The size was compared before; one more byte is asked for, and no more than one."""
    digest = Digest.of(b"good")
    with layout_with(tmp_path, b"good", digest) as layout:

        class Growing:
            """A provider whose files grow between open and read."""

            def reader(self, digest: Digest) -> FileReader:
                reader = layout.reader(digest)
                with (tmp_path / "blobs" / SHA256 / digest.encoded).open("ab") as f:
                    f.write(b"more")
                return reader

        with pytest.raises(DataLoss, match="has 5 bytes or more, expected 4"):
            blob.read(Growing(), digest)


def test_content_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    """It is for the caller to say whether it had to be there."""
    with layout_with(tmp_path, b"", Digest.of(b"")) as layout, pytest.raises(NotFound):
        blob.read(layout, Digest.of(b"x"))


@pytest.mark.parametrize("content", [b"{}", b" \n{}", b"zip?", b"not json", b"", b"\x1f\x8b"])
def test_only_what_begins_as_json_does_is_read_as_a_document(tmp_path: Path, content: bytes) -> None:
    """Or would, but for one bit: what begins with `z` is read in vain."""
    digest = Digest.of(content)
    with layout_with(tmp_path, content, digest) as layout:
        begins = content[:1] in (b"{", b" ", b"z")
        assert blob.document(layout, digest, len(content)) == (content if begins else None)


def test_a_document_whose_first_byte_is_damaged_is_no_other_content(tmp_path: Path) -> None:
    """It would be passed over, and nobody told."""
    digest = Digest.of(b"{}")
    with layout_with(tmp_path, b"y}", digest) as layout, pytest.raises(DataLoss, match="hashes to"):
        blob.document(layout, digest, 2)


def test_content_too_large_for_a_document_is_not_opened(tmp_path: Path) -> None:
    """Nor looked for."""
    with layout_with(tmp_path, b"", Digest.of(b"")) as layout:
        assert blob.document(layout, Digest.of(b"x"), (4 << 20) + 1) is None
        with pytest.raises(NotFound):
            blob.document(layout, Digest.of(b"x"), 4 << 20)
