"""Hosts that are short of something: descriptors, threads, address space, /proc. One line that says what, never a bug's."""

from __future__ import annotations

import errno
import gc
import os
import resource
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm import events, machine, memory
from pyvmm.errors import GuestFault, HostError, PyvmmError
from pyvmm.layout import MIB
from pyvmm.threads import Thread
from tests.support import vm
from tests.support.process import COMMAND, PATIENCE, ROOT, descriptors

pytestmark = pytest.mark.kvm


def limited(what: int, limit: int, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    def lower() -> None:
        resource.setrlimit(what, (limit, limit))

    return subprocess.run([*COMMAND, "run", *arguments], capture_output=True, timeout=PATIENCE, cwd=ROOT, preexec_fn=lower)


@pytest.mark.parametrize("limit", range(5, 17))
def test_few_descriptors(limit: int) -> None:
    done = limited(resource.RLIMIT_NOFILE, limit, "hello")
    if done.returncode:
        assert done.returncode in (2, 102), done.stderr  # 102: it was an ioctl that found out
        assert b"raise `ulimit -n`" in done.stderr
    assert done.stderr.count(b"\n") == (done.returncode != 0)


@pytest.mark.parametrize("mib", [60, 100, 130, 160, 200])
def test_little_address_space(mib: int) -> None:
    done = limited(resource.RLIMIT_AS, mib * MIB, "hello", "-smp", "4", "-m", "16M")
    assert done.returncode in (0, 2), done.stderr
    assert done.stderr.count(b"\n") == (done.returncode != 0), done.stderr


def test_no_thread_for_a_vcpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The vCPUs that have a thread by then must be off KVM_RUN when the error comes: their machine is closed next."""
    start = Thread.start
    started: list[Thread] = []

    def scarce(self: Thread) -> None:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(self)
        start(self)

    monkeypatch.setattr(Thread, "start", scarce)
    with vm.flat(vm.HANG, tmp_path, smp=3) as (one, _):
        with pytest.raises(HostError, match="no thread for vCPU 2"):
            one.run(vm.TIMEOUT)
        assert len(started) == 2
        assert not one.hung


@pytest.mark.parametrize("fail_at", range(8))
def test_a_build_that_runs_out_of_descriptors_leaves_none(fail_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = fail_at

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        def wrapper(*arguments: object, **options: object) -> object:
            nonlocal left
            if not left:
                raise OSError(errno.EMFILE, "planted")
            left -= 1
            return call(*arguments, **options)

        return wrapper

    import mmap
    import select

    for module, name in ((os, "open"), (os, "eventfd"), (select, "epoll"), (mmap, "mmap")):
        monkeypatch.setattr(module, name, counted(getattr(module, name)))
    before = len(descriptors())
    try:
        with vm.flat(vm.HANG, tmp_path, smp=3):
            pass
    except (OSError, PyvmmError):
        pass
    monkeypatch.undo()
    assert len(descriptors()) == before


def test_no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: str, *_: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)

    monkeypatch.setattr(memory, "open", missing, raising=False)
    assert memory.host_memory() == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("flags", ["-O", "-OO", "-B", "-W error", "-X dev -W error", "-I -P"])
def test_any_way_to_run_python(flags: str) -> None:
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv[1:] = ['run', 'hello']; from pyvmm.cli import entry; entry()"
    done = subprocess.run([COMMAND[0], *flags.split(), "-c", program], capture_output=True, timeout=PATIENCE, cwd="/proc")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"Hello, world!")


def test_no_locale() -> None:
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([*COMMAND, "run", "gr\u00fc\u00dfe"], capture_output=True, timeout=PATIENCE, cwd=ROOT, env=environment)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1 and done.stderr.isascii()


# --- what a machine gives back ------------------------------------------------------------------------------------------
def test_closing_gives_guest_memory_back_at_once(tmp_path: Path) -> None:
    """A guest that resets again and again must not wait for the garbage collector: its machines are full of cycles."""

    def resident() -> int:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) << 12

    gc.collect()
    gc.disable()
    try:
        before = resident()
        for _ in range(5):
            with vm.flat(vm.POWER_OFF + vm.HANG, tmp_path, memory=32 * MIB) as (one, _console):
                one.memory.write(2 * MIB, b"\xaa" * (24 * MIB))
                one.run(vm.TIMEOUT)
        assert resident() - before < 40 * MIB
    finally:
        gc.enable()


def test_memory_after_close_is_nowhere_and_a_held_view_stays_good() -> None:
    ram = memory.GuestMemory(MIB)
    view = ram.view(0x1000, 4)
    ram.close()
    view[:] = b"held"
    assert bytes(view) == b"held"
    with pytest.raises(GuestFault):
        ram.read(0x1000, 4)
    ram.close()


def test_closing_under_a_live_thread_does_nothing(tmp_path: Path) -> None:
    """Its console write may end later, and KVM_RUN on a descriptor that is somebody else's by then must not be."""
    release = threading.Event()
    with vm.flat(bytes.fromhex("66baf803 b058 ee") + vm.HANG, tmp_path) as (one, console):
        console.write = lambda data: void(release.wait(60))  # type: ignore[method-assign]
        one.devices["serial0"].output = console.write
        machine_join, machine.JOIN_SECONDS = machine.JOIN_SECONDS, 0
        try:
            assert one.run(0.5).kind == events.TIMEOUT
        finally:
            machine.JOIN_SECONDS = machine_join
        assert one.hung
        one.close()
        assert one.vcpus[0].fd >= 0
        release.set()
        one._join()
        assert not one.hung
    assert one.vcpus[0].fd == -1


def void(_: object) -> None:
    """Makes an expression a statement."""


def test_pausing_before_the_run_holds(tmp_path: Path) -> None:
    with vm.flat(vm.POWER_OFF + vm.HANG, tmp_path) as (one, _):
        one.pause()
        assert one.run(0.3).kind == events.TIMEOUT


def test_stopping_and_closing_again_and_again_is_harmless(tmp_path: Path) -> None:
    with vm.flat(vm.HANG, tmp_path) as (one, _):
        one.stop()
        one.run()
        for _ in range(2):
            one.close()
            one.stop()
            one.pause()
            one.resume()
