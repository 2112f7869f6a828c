"""Descriptors as text, one fact a line, and those that Debian's `ctr` carries inside."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.message import DecodeError

_GZIP = b"\x1f\x8b\x08"
_FILE_MAX = 1 << 20


def facts(files: Iterable[FileDescriptorProto]) -> Iterator[str]:
    """What is on the wire: methods with their types, fields with number and type, values of enums."""
    for file in files:
        for service in file.service:
            for method in service.method:
                asks = _stream(method.client_streaming) + method.input_type[1:]
                gives = _stream(method.server_streaming) + method.output_type[1:]
                yield f"{file.package}.{service.name}/{method.name} {asks} -> {gives}"
        yield from _enums(file.package, file.enum_type)
        for message in file.message_type:
            yield from _message(file.package, message)


def _message(scope: str, message: DescriptorProto) -> Iterator[str]:
    name = f"{scope}.{message.name}"
    for field in message.field:
        yield f"{name}.{field.name} {field.number} {_type(field)}"
    yield from _enums(name, message.enum_type)
    for nested in message.nested_type:
        yield from _message(name, nested)


def _enums(scope: str, enums: Iterable[EnumDescriptorProto]) -> Iterator[str]:
    for enum in enums:
        for value in enum.value:
            yield f"{scope}.{enum.name}.{value.name} {value.number}"


def _type(field: FieldDescriptorProto) -> str:
    kind = FieldDescriptorProto.Type.Name(field.type)[len("TYPE_") :].lower()
    repeated = "repeated " if field.label == FieldDescriptorProto.LABEL_REPEATED else ""
    return f"{repeated}{field.type_name[1:] or kind}"


def _stream(streams: bool) -> str:
    return "stream " if streams else ""


def of_program(path: Path) -> list[FileDescriptorProto]:
    """The descriptors that a program written in Go carries inside, as gogo/protobuf puts them there."""
    data = path.read_bytes()
    found: dict[str, FileDescriptorProto] = {}
    at = -1
    while (at := data.find(_GZIP, at + 1)) >= 0:
        try:
            file = FileDescriptorProto.FromString(
                zlib.decompressobj(31).decompress(data[at : at + _FILE_MAX])
            )
        except (zlib.error, DecodeError):
            continue
        found[file.name] = file
    return list(found.values())
