"""Debian's `ctr` against imgtool and against containerd: the same words on both, the same answers."""

from __future__ import annotations

from imgtool import __version__
from imgtool.serve.proto import images_pb2, namespaces_pb2

from .both import Both
from .client import Served

IMAGES = images_pb2.DESCRIPTOR.services_by_name["Images"]
NAMESPACES = namespaces_pb2.DESCRIPTOR.services_by_name["Namespaces"]


def test_images_are_listed_alike(both: Both) -> None:
    """A table with sizes and platforms, for which ctr asks further; names; filters; and what is wrong."""
    for name, labels in {"b:1": {}, "a:1": {"env": "prod", "x": "y"}, "c d": {"env": "test"}}.items():
        both.create(name, **labels)
    assert both.ctr("images", "ls", "-q").stdout.splitlines() == ["a:1", "b:1", "c d"]
    assert both.ctr("images", "ls", "-q", "labels.env==prod", "name==b:1").stdout.split() == ["a:1", "b:1"]
    assert both.ctr("images", "ls", "-q", "name~=^a,labels.x").stdout.split() == ["a:1"]
    assert both.ctr("images", "ls", "-q", "name=a").exit == 1
    assert "env=prod,x=y" in both.ctr("images", "ls", "name==a:1").stdout


def test_a_label_is_set_and_removed_alike(both: Both) -> None:
    both.create("app", old="1", keep="2")
    assert "new=3" in both.ctr("images", "label", "app", "new=3", "old=").stdout
    assert both.ctr("images", "ls", "labels.new==3,labels.keep==2").stdout.count("\n") == 2
    both.ctr("images", "label", "--replace-all", "app", "only=4")
    both.ctr("images", "ls")
    assert both.ctr("images", "label", "nope", "a=b").exit == 1
    assert both.fails("images", "label", "app", "big=" + "x" * 5000) == "invalid argument"


def test_an_image_gets_a_further_name_alike(both: Both) -> None:
    """For which ctr makes a lease, and deletes the name that is taken where it is forced."""
    both.create("app:1", env="prod")
    both.create("app:2")
    assert both.ctr("images", "tag", "app:1", "app:3").stdout.split() == ["app:3"]
    assert both.ctr("images", "tag", "app:1", "app:2").exit == 1
    both.ctr("images", "tag", "--force", "app:1", "app:2")
    both.ctr("images", "tag", "nope", "app:4")
    both.ctr("images", "ls", "name~=^app")
    assert both.ctr("images", "ls", "-q", "labels.env==prod").stdout.count("\n") == 3
    assert both.ctr("leases", "ls").stdout.count("\n") == 1


def test_images_are_removed_alike(both: Both) -> None:
    """One that is not there is told, and is no failure; --sync waits for gc."""
    for name in ("a", "b", "c", "d"):
        both.create(name)
    assert both.ctr("images", "rm", "a", "b").stdout.split() == ["a", "b"]
    assert both.ctr("images", "rm", "--sync", "c").stdout.split() == ["c"]
    assert "nope: image not found" in both.ctr("images", "rm", "nope", "d").stderr
    assert both.ctr("images", "ls", "-q").stdout == ""


def test_namespaces_are_managed_alike(both: Both) -> None:
    both.empty()
    both.ctr("namespaces", "create", "one", "a=1", "b=2")
    assert both.ctr("namespaces", "create", "one").exit == 1
    assert both.fails("namespaces", "create", "a/b") == "invalid argument"
    both.ctr("namespaces", "create", "two")
    assert both.ctr("namespaces", "ls", "-q").stdout.split() == ["one", "two"]
    both.ctr("namespaces", "label", "one", "a=", "c=3")
    both.ctr("namespaces", "label", "new", "d=4")
    assert both.ctr("namespaces", "ls").stdout.splitlines()[1].split() == ["new", "d=4"]
    both.ctr("namespaces", "rm", "one", "new")
    both.ctr("namespaces", "rm", "nope")
    both.ctr("namespaces", "ls")
    both.ctr("namespaces", "rm", "two")
    assert both.ctr("namespaces", "ls").stdout == "NAME LABELS \n"


def test_a_namespace_with_images_is_not_removed(both: Both) -> None:
    both.create("app")
    assert both.fails("namespaces", "rm", both.namespace) == "failed precondition"


def test_the_version_is_imgtools(server: Served) -> None:
    done = server.ctr("version")
    assert f"Server:\n  Version:  {__version__}\n  Revision: imgtool\n  UUID: " in done.stdout
    assert done.returncode == 0


def test_plugins_are_listed_and_filtered(server: Served) -> None:
    """All of them work, or the server would not."""
    lines = server.ctr("plugins", "ls").stdout.splitlines()
    assert ["io.containerd.metadata.v1", "bolt", "-", "ok"] in [line.split() for line in lines]
    assert all(line.split()[-1] == "ok" for line in lines[1:])
    found = server.ctr("plugins", "ls", "type==io.containerd.service.v1,id==images-service").stdout
    assert [line.split()[1] for line in found.splitlines()] == ["ID", "images-service"]


def test_what_is_absent_fails_clearly(server: Served) -> None:
    done = server.ctr("containers", "ls")
    assert done.returncode == 1
    assert "imgtool has no method List of containerd.services.containers.v1.Containers" in done.stderr
