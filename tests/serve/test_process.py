"""`imgtool serve` as a process: signals, systemd, two of them, and none of the extra installed."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty

from imgtool.digest import Digest
from imgtool.serve.proto import images_pb2, namespaces_pb2, types_pb2, version_pb2

from .client import Served, Stub

ROOT = Path(__file__).parents[2]
IMAGES = images_pb2.DESCRIPTOR.services_by_name["Images"]
NAMESPACES = namespaces_pb2.DESCRIPTOR.services_by_name["Namespaces"]
VERSION = version_pb2.DESCRIPTOR.services_by_name["Version"]
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


class Process:
    """An `imgtool serve`, its lines on stderr, and what it says at the end."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stderr is not None
        self.stderr: IO[str] = process.stderr

    def ends(self) -> int:
        return self.process.wait(30)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.ends()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts servers; those that are left when the test ends are killed."""
    started: list[Process] = []

    def start(*options: str, pass_fds: tuple[int, ...] = (), **env: str) -> Process:
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8", **env}
        argv = [sys.executable, "-m", "imgtool", "--root", str(tmp_path / "store"), "serve", *options]
        process = subprocess.Popen(
            argv, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, pass_fds=pass_fds
        )
        started.append(Process(process))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()
        one.stderr.close()


def version(path: Path) -> str:
    with grpc.insecure_channel(f"unix:{path}") as channel:
        return str(Stub(channel, VERSION, {}).version(Empty()).revision)


def begun(server: Process) -> str:
    """Its first line, which it says when it answers."""
    return server.stderr.readline()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0_and_takes_the_socket_away(
    run: Callable[..., Process], tmp_path: Path, number: int
) -> None:
    """Stopping is what was asked for, and no failure."""
    server = run("--address", "./socket")
    assert begun(server) == f"imgtool: serving '{tmp_path}/store' at unix://{tmp_path}/socket\n"
    assert version(tmp_path / "socket") == "imgtool"
    assert server.stop(number) == 0
    assert server.stderr.read() == f"imgtool: {signal.Signals(number).name}: stopping\n"
    assert [path.name for path in tmp_path.iterdir()] == []


def test_who_hears_events_does_not_hold_up_its_end(run: Callable[..., Process], tmp_path: Path) -> None:
    """A subscription has no end of its own, and `ctr events` is told that it is over."""
    server = run("--address", "./socket")
    begun(server)
    client = Served(tmp_path / "store", tmp_path / "socket")
    with client.told() as told:
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 2
        assert list(told) == []
    client.channel.close()


def test_the_second_server_is_told_of_the_first(run: Callable[..., Process], tmp_path: Path) -> None:
    first = run("--address", "./socket")
    begun(first)
    second = run("--address", "./socket")
    assert second.ends() == 4
    assert "another server answers" in second.stderr.read()
    assert version(tmp_path / "socket") == "imgtool"


def test_of_many_that_start_at_once_one_serves(run: Callable[..., Process], tmp_path: Path) -> None:
    """Each finds the socket of a dead one, and only one may replace it."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "socket"))
    servers = [run("--address", "./socket") for _ in range(4)]
    lines = sorted(begun(server) for server in servers)
    assert sum("serving" in line for line in lines) == 1, lines
    assert version(tmp_path / "socket") == "imgtool"


def test_a_killed_server_can_be_started_again(run: Callable[..., Process], tmp_path: Path) -> None:
    server = run("--address", "./socket")
    begun(server)
    server.stop(signal.SIGKILL)
    assert (tmp_path / "socket").exists()
    begun(run("--address", "./socket"))
    assert version(tmp_path / "socket") == "imgtool"


def test_without_address_it_is_in_the_runtime_directory(run: Callable[..., Process], tmp_path: Path) -> None:
    server = run(XDG_RUNTIME_DIR=str(tmp_path))
    begun(server)
    assert version(tmp_path / "imgtool" / "imgtool.sock") == "imgtool"


def test_without_a_runtime_directory_it_is_in_the_store_which_stays_one(
    run: Callable[..., Process], tmp_path: Path
) -> None:
    """Neither making the store nor fsck minds what lies in its cache."""
    server = run()
    begun(server)
    with grpc.insecure_channel(f"unix:{tmp_path / 'store' / 'cache' / 'imgtool.sock'}") as channel:
        namespaces = Stub(channel, namespaces_pb2.DESCRIPTOR.services_by_name["Namespaces"], {})
        new = namespaces_pb2.Namespace(name="ns")
        namespaces.create(namespaces_pb2.CreateNamespaceRequest(namespace=new))
    fsck = [sys.executable, "-m", "imgtool", "--root", str(tmp_path / "store"), "fsck"]
    done = subprocess.run(fsck, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_systemd_is_told_when_it_answers_and_when_it_stops(
    run: Callable[..., Process], tmp_path: Path
) -> None:
    """With Type=notify, what depends on the service starts when it can be used."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        server = run("--address", "./socket", NOTIFY_SOCKET=str(tmp_path / "notify"))
        assert systemd.recv(100) == b"READY=1"
        assert version(tmp_path / "socket") == "imgtool"
        server.stop()
        assert systemd.recv(100) == b"STOPPING=1"


@contextmanager
def activated(tmp_path: Path) -> Iterator[tuple[socket.socket, Callable[..., subprocess.Popen[str]]]]:
    """A socket as systemd holds it, and a way to start a server on it."""
    processes: list[subprocess.Popen[str]] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()

        def start(*options: str) -> subprocess.Popen[str]:
            # LISTEN_PID is the process that the shell becomes.
            script = 'exec 3<&"$0"; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
            argv = [sys.executable, "-m", "imgtool", "--root", str(tmp_path / "store"), "serve", *options]
            environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
            fd = listener.fileno()
            processes.append(
                subprocess.Popen(
                    ["bash", "-c", script, str(fd), *argv],
                    env=environment,
                    pass_fds=(fd,),
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            return processes[-1]

        try:
            yield listener, start
        finally:
            for process in processes:
                process.kill()
                process.wait()
                assert process.stderr is not None
                process.stderr.close()


def test_a_socket_that_systemd_hands_over_is_served(tmp_path: Path) -> None:
    """What connected before the server ran is answered, and the socket outlives it, for the next one."""
    with activated(tmp_path) as (_, start):
        answers: list[str] = []
        early = threading.Thread(target=lambda: answers.append(version(tmp_path / "socket")))
        early.start()
        for _ in range(2):
            server = start()
            assert version(tmp_path / "socket") == "imgtool"
            server.send_signal(signal.SIGTERM)
            assert server.wait(30) == 0
        early.join()
        assert answers == ["imgtool"]
        assert (tmp_path / "socket").exists()


def test_all_who_come_to_a_socket_that_was_handed_over_are_served(
    tmp_path: Path,
) -> None:
    """More than a socket holds, and as many clients as there are at once."""
    names = [f"{letter * 30000}-{i}" for i, letter in enumerate("abcdefgh" * 8)]
    target = types_pb2.Descriptor(media_type="text/plain", digest=Digest.of(b"a"), size=1)

    def create(name: str) -> None:
        with grpc.insecure_channel(f"unix:{tmp_path / 'socket'}", options=OWN_CONNECTION) as channel:
            stub = Stub(channel, IMAGES, {"containerd-namespace": "default"})
            image = images_pb2.Image(name=name, target=target)
            stub.create(images_pb2.CreateImageRequest(image=image))

    with activated(tmp_path) as (_, start), ThreadPoolExecutor(8) as threads:
        server = start()
        list(threads.map(create, names))
        with grpc.insecure_channel(f"unix:{tmp_path / 'socket'}") as channel:
            stub = Stub(channel, IMAGES, {"containerd-namespace": "default"})
            found = stub.list(images_pb2.ListImagesRequest()).images
        assert [image.name for image in found] == sorted(names)
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


def test_it_outlives_a_lack_of_descriptors(run: Callable[..., Process], tmp_path: Path) -> None:
    """Who cannot be taken waits, and is taken when others have gone."""
    server = run("--address", "./socket")
    begun(server)
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (40, 40))
    many = []
    for _ in range(60):
        many.append(socket.socket(socket.AF_UNIX))
        many[-1].connect(str(tmp_path / "socket"))
    time.sleep(0.3)
    for one in many:
        one.close()
    assert version(tmp_path / "socket") == "imgtool"
    assert server.stop() == 0


def test_a_socket_that_is_handed_over_and_an_address_are_one_too_many(tmp_path: Path) -> None:
    with activated(tmp_path) as (_, start):
        server = start("--address", "./other")
        assert server.wait(30) == 2
        assert server.stderr is not None
        assert "--address is given, and a socket was handed over" in server.stderr.read()


@pytest.mark.parametrize("missing", ["hpack", "google.protobuf"])
def test_without_the_extra_it_is_told_how_to_get_it(tmp_path: Path, missing: str) -> None:
    """Most people do not need it, and do not have it."""
    script = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from imgtool.cli.main import run\n"
        "sys.exit(run(['serve', '--address', './socket']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "IMGTOOL_ROOT": "store"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 5
    assert "needs hpack and protobuf" in done.stderr
    assert "hint: pip install 'imgtool-store[serve]'\n" in done.stderr
    assert not (tmp_path / "socket").exists()
