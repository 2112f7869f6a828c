"""The socket: which addresses are one, and that none is taken from somebody else."""

from __future__ import annotations

import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from imgtool.errors import AlreadyExists, InvalidArgument, PermissionDenied
from imgtool.serve.address import PATH_MAX, Address, default, parse


def listen(path: str) -> socket.socket:
    """What a server does."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    return server


class Started:
    """Begins to answer, and keeps the sockets."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []

    def __call__(self, listener: socket.socket) -> None:
        self.sockets.append(listener)

    def close(self) -> None:
        for server in self.sockets:
            server.close()


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("unix:///run/x.sock", "/run/x.sock"),
        ("/run/x.sock", "/run/x.sock"),
        ("unix:///run/../x.sock", "/x.sock"),
    ],
)
def test_a_path_and_a_unix_url_are_addresses(text: str, path: str) -> None:
    """`ctr --address` takes both."""
    assert parse(text) == path


def test_a_relative_path_is_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse("./x.sock") == f"{tmp_path}/x.sock"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x.sock",
        "127.0.0.1:50051",
        "localhost:50051",
        "[::1]:50051",
        "tcp://127.0.0.1:1/x",
        "unix:x/y.sock",
        "unix://x/y.sock",
        "unix-abstract:x",
        "vsock:2:1/",
        "dns:///localhost:1",
        "/run/",
        "/run/\0x",
    ],
)
def test_what_is_reached_over_a_network_is_no_address(text: str) -> None:
    """Everybody on the machine could connect, also at loopback."""
    with pytest.raises(InvalidArgument):
        parse(text)


def test_a_path_that_no_socket_can_have_is_refused() -> None:
    """The system would cut it off, or say something that nobody understands."""
    longest = "/" + "x" * (PATH_MAX - 1)
    assert parse(longest) == longest
    with pytest.raises(InvalidArgument, match="has 108 bytes"):
        parse(longest + "x")


def test_the_default_is_in_the_runtime_directory_else_in_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1")
    assert default("/store") == "/run/user/1/imgtool/imgtool.sock"
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    assert default("/store") == "/store/cache/imgtool.sock"


def test_the_longest_path_can_be_bound(tmp_path: Path) -> None:
    """The name beside it, at which the socket is made, must not be longer."""
    path = f"{tmp_path}/".ljust(PATH_MAX, "x")
    started = Started()
    address = Address(path)
    address.listen(started)
    assert stat.S_ISSOCK(os.stat(path).st_mode)
    address.withdraw()
    started.close()


def test_only_the_owner_reaches_the_socket_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "new" / "socket"
    started = Started()
    before = os.umask(0)
    try:
        Address(str(path)).listen(started)
        assert os.umask(0) == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    started.close()


def test_the_socket_is_seen_when_it_answers_and_not_before(tmp_path: Path) -> None:
    """Whoever waits for it need not try twice."""
    path = tmp_path / "socket"
    started = Started()
    seen: list[bool] = []

    def start(listener: socket.socket) -> None:
        started(listener)
        seen.append(path.exists())

    Address(str(path)).listen(start)
    assert seen == [False]
    assert [p.name for p in tmp_path.iterdir()] == ["socket"]
    started.close()


def test_a_server_that_cannot_start_leaves_nothing(tmp_path: Path) -> None:
    """Neither a name that nobody serves nor a descriptor."""
    started = Started()

    def fail(listener: socket.socket) -> None:
        started(listener)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        Address(str(tmp_path / "socket")).listen(fail)
    assert list(tmp_path.iterdir()) == []
    assert [listener.fileno() for listener in started.sockets] == [-1]


def test_a_socket_that_is_served_is_left_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with listen(path):
        before = os.stat(path)
        with pytest.raises(AlreadyExists, match="another server answers"):
            Address(path).listen(lambda _: pytest.fail("started"))
        assert os.stat(path).st_ino == before.st_ino


def test_the_socket_of_a_server_that_is_gone_is_replaced(tmp_path: Path) -> None:
    """A killed one leaves its socket behind."""
    path = str(tmp_path / "socket")
    listen(path).close()
    started = Started()
    Address(path).listen(started)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    started.close()


def test_of_two_that_start_at_once_the_second_waits_and_is_told(tmp_path: Path) -> None:
    """Both would find the place free, and one would serve where nobody comes."""
    path = str(tmp_path / "socket")
    first, second = Started(), Started()
    told: list[str] = []

    def start_second() -> None:
        with pytest.raises(AlreadyExists) as caught:
            Address(path).listen(second)
        told.append(caught.value.message)

    other = threading.Thread(target=start_second)

    def start_first(listener: socket.socket) -> None:
        first(listener)
        other.start()
        other.join(0.2)
        assert other.is_alive()

    Address(path).listen(start_first)
    other.join(30)
    assert told == [f"another server answers at '{path}'"]
    assert second.sockets == []
    first.close()


@pytest.mark.parametrize("kind", ["file", "link", "directory"])
def test_what_is_no_socket_is_not_replaced(tmp_path: Path, kind: str) -> None:
    """It may be what the user meant to keep; and a link may lead anywhere."""
    path = tmp_path / "socket"
    if kind == "file":
        path.write_text("mine")
    elif kind == "link":
        listen(str(tmp_path / "other")).close()
        path.symlink_to("other")
    else:
        path.mkdir()
    before = path.lstat()
    with pytest.raises(AlreadyExists, match="no socket"):
        Address(str(path)).listen(lambda _: pytest.fail("started"))
    assert path.lstat().st_ino == before.st_ino


def test_the_name_beside_the_address_may_be_somebody_elses(tmp_path: Path) -> None:
    """A file there, or a live server's socket, outlives our start; a dead one's does not stop it."""
    path, beside = tmp_path / "x.sock", tmp_path / "~.sock"
    beside.write_text("mine")
    with pytest.raises(AlreadyExists, match="no socket"):
        Address(str(path)).listen(lambda _: pytest.fail("started"))
    assert beside.read_text() == "mine"
    beside.unlink()
    with listen(str(beside)):
        with pytest.raises(AlreadyExists, match="another server answers"):
            Address(str(path)).listen(lambda _: pytest.fail("started"))
        assert stat.S_ISSOCK(beside.stat().st_mode)
    started = Started()
    Address(str(path)).listen(started)
    assert [p.name for p in tmp_path.iterdir()] == ["x.sock"]
    started.close()


@pytest.mark.parametrize("mode", [0o770, 0o777, 0o1777])
def test_a_directory_that_others_write_is_refused(tmp_path: Path, mode: int) -> None:
    """They could put a socket of theirs into the place of ours, and clients would not notice."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(mode)
    with pytest.raises(PermissionDenied, match="others may write"):
        Address(str(shared / "socket")).listen(lambda _: pytest.fail("started"))


def test_the_socket_of_a_successor_stays_when_the_predecessor_ends(tmp_path: Path) -> None:
    """Somebody removed our socket, and another server began."""
    path = tmp_path / "socket"
    old, new = Address(str(path)), Address(str(path))
    started = Started()
    old.listen(started)
    path.unlink()
    new.listen(started)
    old.withdraw()
    assert path.exists()
    new.withdraw()
    assert not path.exists()
    started.close()
