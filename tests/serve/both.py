"""Debian's `ctr` against imgtool and against containerd: the same words to both, and what they answer."""

from __future__ import annotations

import re
import subprocess
from typing import NamedTuple

from imgtool.digest import Digest
from imgtool.serve.proto import images_pb2, namespaces_pb2, types_pb2

from .client import Served

IMAGES = images_pb2.DESCRIPTOR.services_by_name["Images"]
NAMESPACES = namespaces_pb2.DESCRIPTOR.services_by_name["Namespaces"]


class Said(NamedTuple):
    """What a command has printed. Left aside: times, the style of quotes, the order of labels, which is
    random, how content is named, and that containerd says of some errors twice what they are.
    """

    exit: int
    stdout: str
    stderr: str


def said(done: subprocess.CompletedProcess[str]) -> Said:
    stdout = re.sub(r"\S+=\S+", lambda m: ",".join(sorted(m[0].split(","))), done.stdout)
    stderr = re.sub(r'time="[^"]*"', "time", done.stderr).replace('\\"', "'").replace('"', "'")
    stderr = re.sub(r"content digest (sha256:\w+)", r"content '\1'", stderr)
    return Said(done.returncode, stdout, re.sub(r"(: [a-z ]+)\1$", r"\1", stderr, flags=re.MULTILINE))


class Both:
    """Two servers, of which a test asks the same. Each test has a namespace of its own."""

    def __init__(self, imgtool: Served, containerd: Served, namespace: str) -> None:
        self.servers = imgtool, containerd
        self.namespace = namespace

    def ctr(self, *args: str) -> Said:
        """What both say; they must say the same."""
        ours, theirs = (said(server.ctr(*args, namespace=self.namespace)) for server in self.servers)
        assert ours == theirs, f"{args}:\n{ours}\n{theirs}"
        return ours

    def fails(self, *args: str) -> str:
        """The kind of error at the end of what both say; the words before it are each one's own."""
        ours, theirs = (said(server.ctr(*args, namespace=self.namespace)) for server in self.servers)
        kind = theirs.stderr.rpartition(": ")[2]
        assert (ours.exit, ours.stdout, ours.stderr.rpartition(": ")[2]) == (*theirs[:2], kind), args
        return kind.strip()

    def create(self, name: str, **labels: str) -> None:
        """An image without content."""
        target = types_pb2.Descriptor(media_type="text/plain", digest=Digest.of(name.encode()), size=7)
        image = images_pb2.Image(name=name, labels=labels, target=target)
        for server in self.servers:
            server.stub(IMAGES, self.namespace).create(images_pb2.CreateImageRequest(image=image))

    def empty(self) -> None:
        """Remove all namespaces, which are listed whole."""
        for server in self.servers:
            stub = server.stub(NAMESPACES, "")
            for found in stub.list(namespaces_pb2.ListNamespacesRequest()).namespaces:
                images = server.stub(IMAGES, found.name)
                for image in images.list(images_pb2.ListImagesRequest()).images:
                    images.delete(images_pb2.DeleteImageRequest(name=image.name))
                stub.delete(namespaces_pb2.DeleteNamespaceRequest(name=found.name))
