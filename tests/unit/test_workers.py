"""Work that is shared with other processes, and what is shared."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from imgtool import workers
from imgtool.digest import Digest
from imgtool.disk import open_store
from imgtool.oci import media
from imgtool.ops import gc

from .gc_world import NS, REF, add, label, manifest, tag


def program(code: str, *args: str, processors: int = 3) -> subprocess.Popen[str]:
    """A process of one thread that runs `code`, as if it had so many processors."""
    start = f"import os, sys\nos.sched_getaffinity = lambda pid: range({processors})\n"
    return subprocess.Popen(
        [sys.executable, "-c", start + textwrap.dedent(code), *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


def run(code: str, *args: str, processors: int = 3) -> str:
    """What such a process says."""
    with program(code, *args, processors=processors) as process:
        said, errors = process.communicate(timeout=60)
    assert (errors, process.returncode) == ("", 0)
    return said


SHARE = """
    from imgtool import workers
    def work(part):
        here = os.getpid() == parent
        FAULT
        return [here, *part]
    parent = os.getpid()
    print(workers.share(work, list(range(ITEMS)), 10))
    try:
        os.waitpid(-1, 0)
        print("somebody is left")
    except ChildProcessError:
        pass
    print(len(os.listdir("/proc/self/fd")))
"""


def shared(items: int, fault: str = "", processors: int = 3) -> list[str]:
    code = SHARE.replace("ITEMS", str(items)).replace("FAULT", fault)
    return run(code, processors=processors).splitlines()


@pytest.mark.parametrize("processors", [1, 2, 3, 64])
@pytest.mark.parametrize("items", [0, 1, 19, 20, 21, 1000])
def test_every_item_is_worked_on_once_in_turn(items: int, processors: int) -> None:
    """The first part here, the others elsewhere, while there are enough for each."""
    said, descriptors = shared(items, processors=processors)
    parts = eval(said)
    count = max(1, min(processors, 4, items // 10)) if items else 0
    assert [part for _, *part in parts] == [list(range(n, items, count)) for n in range(count)]
    assert [here for here, *_ in parts] == [n == 0 for n in range(count)]
    assert descriptors == shared(0)[1]


@pytest.mark.parametrize(
    "fault",
    [
        "here or 1 / 0",
        "here or os._exit(0)",
        "here or os.kill(os.getpid(), 9)",
        "here or sys.exit()",
        "if not here: return object()",
    ],
)
def test_what_a_worker_does_not_do_is_done_here(fault: str) -> None:
    """Whatever has become of it; and it says nothing."""
    said, descriptors = shared(100, fault)
    assert [here for here, *_ in eval(said)] == [True] * 3
    assert sorted(item for _, *part in eval(said) for item in part) == list(range(100))
    assert descriptors == shared(0)[1]


def test_much_comes_back(tmp_path: Path) -> None:
    """More than any pipe holds."""
    code = """
        from imgtool import workers
        parts = workers.share(lambda part: b"".join(x * (5 << 20) for x in part), [b"a", b"b", b"c"], 1)
        print([(part[:1], len(part)) for part in parts])
    """
    assert run(code) == f"{[(x, 5 << 20) for x in (b'a', b'b', b'c')]}\n"


def test_an_error_here_leaves_nobody_behind() -> None:
    """It is raised, and the workers are ended, though they would go on for long."""
    code = """
        import time
        from imgtool import workers
        def work(part):
            if os.getpid() != parent:
                time.sleep(50)
            raise ValueError("x")
        parent = os.getpid()
        try:
            workers.share(work, list(range(100)), 10)
        except ValueError as error:
            print(error)
        try:
            os.waitpid(-1, 0)
            print("somebody is left")
        except ChildProcessError:
            pass
    """
    assert run(code) == "x\n"


LONG = """
    import signal, time
    from imgtool import workers
    parent = os.getpid()
    def work(part):
        if os.getpid() != parent:
            print(os.getpid(), *sorted(os.listdir("/proc/self/fd"), key=int), flush=True)
            time.sleep(1)
            return b"x" * (5 << 20)
        AFTER
"""


def ended(pid: int) -> bool:
    """Whether it has ended, within a while."""
    for _ in range(500):
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.02)
    return False


def test_a_worker_outlives_us_for_its_work_alone_and_holds_nothing(tmp_path: Path) -> None:
    """Killed beside it, and with a lock: what is open is the way back, which nobody reads any more."""
    (tmp_path / "lock").touch()
    code = (
        LONG.replace("AFTER", "time.sleep(0.3); os.kill(parent, 9)")
        + """
    import fcntl
    lock = os.open(sys.argv[1], os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    workers.share(work, list(range(20)), 10)
    """
    )
    with program(code, str(tmp_path / "lock"), processors=2) as process:
        pid, *open_there = map(int, process.communicate(timeout=30)[0].split())
    assert process.returncode == -signal.SIGKILL
    assert len([fd for fd in open_there if fd > 2]) == 2  # the way back, and the listing itself
    with (tmp_path / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert ended(pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_we_wait_for_a_worker_is_answered_at_once(number: signal.Signals) -> None:
    """By whoever handles it; and the worker is ended."""
    code = (
        LONG.replace("AFTER", "")
        + """
    class Terminated(BaseException): pass
    def terminate(number, frame): raise Terminated
    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGINT, terminate)
    try:
        workers.share(work, list(range(20)), 10)
    except Terminated:
        print("terminated")
    """
    )
    with program(code, processors=2) as process:
        assert process.stdout
        pid = int(process.stdout.readline().split()[0])
        process.send_signal(number)
        assert process.communicate(timeout=30) == ("terminated\n", "")
    assert process.returncode == 0
    assert ended(pid)


def test_a_signal_to_a_worker_that_begins_does_not_make_it_another_of_us() -> None:
    """Raised there it would leave `share`, and go on as we do."""
    code = """
        import signal
        from imgtool import workers
        class Terminated(BaseException): pass
        def terminate(number, frame): raise Terminated
        signal.signal(signal.SIGTERM, terminate)
        fork = os.fork
        def forking():
            pid = fork()
            if not pid:
                os.kill(os.getpid(), signal.SIGTERM)
            return pid
        os.fork = forking
        try:
            print([len(part) for part in workers.share(list, list(range(99)), 10)], flush=True)
        except Terminated:
            print("another", flush=True)
    """
    assert run(code) == "[33, 33, 33]\n"


def test_children_that_nobody_waits_for_are_no_error() -> None:
    """Where SIGCHLD is ignored, as some supervisors leave it, there is no status to be had."""
    code = """
        import signal
        from imgtool import workers
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        print([len(part) for part in workers.share(list, list(range(99)), 10)])
    """
    assert run(code) == "[33, 33, 33]\n"


def test_nothing_is_shared_while_a_lock_is_held(tmp_path: Path) -> None:
    """DESIGN: no copy is made while one is open."""
    with open_store(str(tmp_path / "store")) as store:
        add(store, b"x")
    code = """
        from imgtool import workers
        from imgtool.disk import open_store
        def refuse():
            print("a copy was made")
        os.fork = refuse
        with open_store(sys.argv[1]) as store:
            for lock in (store.engine.locks.changing("default"), store.engine.locks.removing()):
                with lock:
                    print(len(workers.share(list, list(range(100)), 10)))
    """
    assert run(code, str(tmp_path / "store")) == "1\n1\n"


def test_where_no_process_can_be_made_the_work_is_done() -> None:
    """Neither a pipe nor a process is to be had."""
    code = """
        import errno
        from imgtool import workers
        def refuse():
            raise OSError(errno.EAGAIN, "no more")
        for name in ("fork", "pipe"):
            setattr(os, name, refuse)
            print(sum(map(len, workers.share(list, list(range(100)), 10))))
    """
    assert run(code) == "100\n100\n"


def test_a_process_with_threads_works_alone() -> None:
    """A copy of it could wait for ever for a lock that nobody is left to release."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        assert workers.share(lambda part: [os.getpid(), *part], list(range(1000)), 1) == [
            [os.getpid(), *range(1000)]
        ]
    finally:
        end.set()
        thread.join()


@pytest.mark.parametrize("settled", [True, False])
def test_gc_finds_the_same_with_workers(tmp_path: Path, settled: bool) -> None:
    """Roots, labels, documents and objects; with a directory that has just changed, and a second time."""
    root = str(tmp_path / "store")
    with open_store(root) as store:
        for n in range(12):
            config, layer = add(store, b"config %d" % n), add(store, b"layer %d" % n)
            if n % 3:
                tag(store, f"image {n}", add(store, manifest(config, layer)), media.OCI_MANIFEST)
            if n % 4 == 0:
                label(store, config, {f"{REF}.x": add(store, b"by label %d" % n)})
        garbage = gc.find(store)
    assert (
        len(garbage.content[NS]) == 4 * 2 + 1
    )  # configs and layers without a manifest, and what a label of one names
    code = f"""
        from imgtool.disk import open_store, read, remembered, scan
        from imgtool.ops import documents, gc
        remembered._MANY = scan._MANY = documents._MANY = 1
        read._SETTLED = {-1 if settled else 60_000_000_000}
        forks = []
        fork = os.fork
        os.fork = lambda: (forks.append(1), fork())[1]
        with open_store(sys.argv[1]) as store:
            for dry_run in (True, False, False):
                found = gc.collect(store, dry_run=dry_run)
                print(*found.objects)
        print(len(forks))
    """
    dry, first, second, forks = run(code, root).splitlines()
    assert dry.split() == first.split() == list(garbage.objects)
    assert second == ""
    assert int(forks) >= 8  # two for each of images, records, objects and documents
    with open_store(root) as store:
        assert not any(gc.find(store))


@pytest.mark.parametrize("what", ["objects", "namespaces"])
def test_what_a_worker_cannot_read_is_told(tmp_path: Path, what: str) -> None:
    """As it is where there are no workers."""
    root = tmp_path / "store"
    with open_store(str(root)) as store:
        tops = [add(store, manifest(add(store, b"c%d" % n), add(store, b"l%d" % n))) for n in range(9)]
        for n, top in enumerate(tops):
            tag(store, str(n), top, media.OCI_MANIFEST)
    broken = Digest(tops[-1]).encoded
    (path,) = root.glob(f"{what}/**/{broken[:2]}/{broken[2:]}*")
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    code = """
        from imgtool.disk import open_store, read, remembered, scan
        from imgtool.errors import DataLoss
        from imgtool.ops import documents, gc
        remembered._MANY = scan._MANY = documents._MANY = 1
        with open_store(sys.argv[1]) as store:
            try:
                gc.collect(store)
            except DataLoss as error:
                print(error.message)
    """
    told = run(code, str(root))
    assert told == run(code, str(root), processors=1)
    assert broken[2:] in told
