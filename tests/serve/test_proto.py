"""Our messages on the wire are containerd's, and the modules are what protoc makes of our files."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

from .protoc import MADE_WITH, PROTO, protoc
from .wire import facts, of_program

FACTS = Path(__file__).with_name("wire.txt").read_text().splitlines()


def ours() -> list[FileDescriptorProto]:
    """The descriptors of the modules that are kept."""
    files = []
    for path in sorted(PROTO.glob("*.proto")):
        module = import_module(f"imgtool.serve.proto.{path.stem}_pb2")
        files.append(FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb))
    return files


def test_names_numbers_and_types_are_those_of_containerd() -> None:
    """`wire.txt` was made from the definitions of containerd 2.4, gRPC's health and Google's status, and
    changes only when they do: a client decodes by nothing else.
    """
    assert sorted(facts(ours())) == FACTS


def test_names_numbers_and_types_are_those_inside_ctr() -> None:
    """Debian's client is of 1.6, which has less; and there the envelope of events is in another package."""
    program = shutil.which("ctr")
    if program is None:
        pytest.skip("ctr is not installed")
    mine = {line.split(" ")[0]: line for line in facts(ours())}
    moved = "containerd.services.events.v1.Envelope", "containerd.types.Envelope"
    theirs = [line.replace(*moved) for line in facts(of_program(Path(program)))]
    known = [line for line in theirs if line.split(" ")[0] in mine]
    assert [mine[line.split(" ")[0]] for line in known] == known
    assert len(known) > 200  # else the program is made otherwise, and nothing was compared


def test_the_modules_are_made_of_the_files(tmp_path: Path) -> None:
    """By whatever protoc is installed: the descriptors are compared, which do not depend on it."""
    protoc(f"--descriptor_set_out={tmp_path / 'set'}")
    made = FileDescriptorSet.FromString((tmp_path / "set").read_bytes()).file
    kept = {file.name: file for file in ours()}
    assert set(kept) == {file.name for file in made}
    for file in made:
        _drop_json_names(file.message_type)
        assert kept[file.name] == file


def _drop_json_names(messages: Iterable[DescriptorProto]) -> None:
    """protoc writes them into a set of descriptors, and not into modules."""
    for message in messages:
        for field in message.field:
            field.ClearField("json_name")
        _drop_json_names(message.nested_type)


@pytest.mark.parametrize("path", sorted(PROTO.glob("*_pb2.py")), ids=lambda path: path.stem)
def test_a_module_is_made_with_the_oldest_protobuf_that_is_allowed(path: Path) -> None:
    """Made with a newer one, it could not be imported with the oldest."""
    assert MADE_WITH in path.read_text()
    version = MADE_WITH.rpartition(" ")[2]
    assert f'"protobuf>={version}"' in (PROTO.parents[2] / "pyproject.toml").read_text()
    assert path.with_suffix(".pyi").exists()


def test_no_package_called_types_comes_onto_the_path() -> None:
    """It would hide Python's own."""
    for path in PROTO.glob("*.proto"):
        for line in path.read_text().splitlines():
            if line.startswith("import"):
                assert line.startswith(('import "google/protobuf/', 'import "imgtool/serve/proto/'))
