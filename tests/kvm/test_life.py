"""Stop, pause, kick and signals from everywhere at once, against vCPUs that halt, spin or exit; and SIGTERM at any moment.

PYVMM_CYCLES=1000 for the long version.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pyvmm import events
from pyvmm.machine import KICK, Machine
from tests.support import vm
from tests.support.process import PATIENCE, Screen, read_until, started, wait_until

pytestmark = pytest.mark.kvm

CYCLES = int(os.environ.get("PYVMM_CYCLES", "100"))
WARM = 5  # cycles
EXITING = bytes.fromhex("e680 ebfc")  # out 0x80, al; again
PRINTING = bytes.fromhex("66baf803 ee ebfd")  # out 0x3f8, al; again
MMIO = bytes.fromhex("a3000000d0 ebf9")  # mov [0xd0000000], eax; again
GUESTS = {"halted": vm.HALT, "spinning": vm.HANG, "exiting": EXITING, "printing": PRINTING, "mmio": MMIO}
RESET = bytes.fromhex("b0fe e664")
StormResult = tuple[list[events.StopReason], list[BaseException]]


def storm(machine: Machine, acts: Sequence[Callable[[], object]], seconds: float, seed: int) -> StormResult:
    """Runs the machine while four threads do random acts; then stops it."""
    errors: list[BaseException] = []
    ending = threading.Event()

    def nag(number: int) -> None:
        rng = random.Random(seed * 10 + number)
        try:
            while not ending.is_set():
                rng.choice(acts)()
                time.sleep(rng.choice((0, 0, 0.0001, 0.001)))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=nag, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    reasons: list[events.StopReason] = []
    runner = threading.Thread(target=lambda: reasons.append(machine.run(vm.TIMEOUT)))
    runner.start()
    time.sleep(seconds)
    ending.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "pause() or resume() does not return"
    machine.stop()
    runner.join(30)
    assert not runner.is_alive(), "run() does not return"
    assert not machine.hung
    return reasons, errors


@pytest.mark.parametrize("smp", [1, 2, 4])
@pytest.mark.parametrize("guest", GUESTS)
def test_pause_resume_and_kicks_from_four_threads(guest: str, smp: int, tmp_path: Path) -> None:
    with vm.flat(GUESTS[guest], tmp_path, smp=smp) as (machine, console):
        console.write = lambda data: None  # type: ignore[method-assign]
        machine.devices["serial0"].output = console.write
        acts = [machine.pause, machine.resume, machine.resume, machine.toggle_pause, machine._kick_all, machine.loop.wake]
        reasons, errors = storm(machine, acts, 0.3, smp)
        assert not errors
        assert [reason.kind for reason in reasons] == [events.QUIT]


def test_the_guest_runs_on_after_a_storm(tmp_path: Path) -> None:
    """No kick may be left behind that ends a later KVM_RUN for ever, and no vCPU parked for good."""
    code = bytes.fromhex("ff0500002000 ebf8")  # inc dword [0x200000]; again
    with vm.flat(code, tmp_path) as (machine, _), vm.running(machine):
        for _ in range(CYCLES):
            machine.pause()
            before = machine.memory.unpack("<I", 0x200000)
            machine.resume()
            wait_until(lambda before=before: machine.memory.unpack("<I", 0x200000) != before, "progress", 30)


def test_nobody_runs_while_paused(tmp_path: Path) -> None:
    with vm.flat(bytes.fromhex("ff0500002000 ebf8"), tmp_path) as (machine, _), vm.running(machine):
        ending = threading.Event()

        def kick() -> None:
            while not ending.is_set():
                machine._kick_all()

        kicker = threading.Thread(target=kick)
        kicker.start()
        try:
            for _ in range(CYCLES // 2):
                machine.pause()
                before = machine.memory.unpack("<I", 0x200000)
                time.sleep(0.002)
                assert machine.memory.unpack("<I", 0x200000) == before
                machine.resume()
        finally:
            ending.set()
            kicker.join()


@pytest.mark.parametrize("guest", GUESTS)
def test_start_and_stop_again_and_again(guest: str, tmp_path: Path) -> None:
    """At random moments from before the first instruction on, from another thread; and nothing stays behind."""
    rng = random.Random(guest)
    first: tuple[int, int, int] | None = None
    for cycle in range(max(CYCLES // len(GUESTS), WARM + 1)):
        if cycle == WARM:  # by now all that is made once and kept has been made
            gc.collect()
            first = census()
        with vm.flat(GUESTS[guest], tmp_path, smp=rng.choice((1, 2, 4))) as (machine, console):
            console.write = lambda data: None  # type: ignore[method-assign]
            machine.devices["serial0"].output = console.write
            delay = rng.choice((0, 0.0005, 0.002, rng.random() * 0.02))
            stopper = threading.Timer(delay, machine.stop)
            stopper.start()
            start = time.monotonic()
            reason = machine.run(vm.TIMEOUT)
            assert (reason.kind, machine.hung) == (events.QUIT, False), f"cycle {cycle}"
            assert time.monotonic() - start < 20
            stopper.join()
    gc.collect()
    assert first is not None
    wait_until(lambda: census()[:2] == first[:2], f"descriptors and threads as they were: {first}", 30)
    assert census()[2] - first[2] < 8 << 20, "bytes of memory that were not given back"


def census() -> tuple[int, int, int]:
    """This process's descriptors, threads and bytes of memory in use."""
    with open("/proc/self/statm") as statm:
        resident = int(statm.read().split()[1]) << 12
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), resident


def test_all_reasons_at_once_give_one(tmp_path: Path) -> None:
    for _ in range(max(CYCLES // 10, 1)):
        with vm.flat(vm.POWER_OFF + vm.HANG, tmp_path, smp=4) as (machine, _):
            stoppers = [threading.Thread(target=machine.stop) for _ in range(4)]
            for each in stoppers:
                each.start()
            first = machine.run(0.01)
            assert first.kind in (events.QUIT, events.POWEROFF, events.TIMEOUT)
            for each in stoppers:
                each.join()
            assert machine.reason == first


def test_a_signal_on_another_thread_ends_the_wait_too(tmp_path: Path) -> None:
    """The kernel may give a process's signal to any thread; Python's handler runs on the main one, which sleeps in epoll_wait."""
    from pyvmm.csignal import signal as csignal

    with vm.flat(vm.HALT, tmp_path) as (machine, _):
        before = csignal.signal(signal.SIGUSR2, lambda *_: machine.stop(signal.SIGUSR2))
        try:
            threading.Timer(0.3, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGUSR2)).start()
            start = time.monotonic()
            assert machine.run(30).value == signal.SIGUSR2
            assert time.monotonic() - start < 20
        finally:
            csignal.signal(signal.SIGUSR2, before)
    assert signal.set_wakeup_fd(-1) == -1


def test_a_storm_of_signals_whose_handlers_pause_and_resume(tmp_path: Path) -> None:
    """Handlers run on top of whatever the main thread does with the machine's locks."""
    calls = 0
    with vm.flat(EXITING, tmp_path, smp=2) as (machine, _):

        def handler(*_: object) -> None:
            nonlocal calls
            calls += 1
            machine.toggle_pause()
            if calls == 500:
                machine.stop()

        before = signal.signal(signal.SIGUSR2, handler)
        try:
            ending = threading.Event()

            def nag() -> None:
                while not ending.is_set():
                    signal.pthread_kill(main, signal.SIGUSR2)
                    time.sleep(0.0002)

            main = threading.get_ident()
            nagger = threading.Thread(target=nag)
            nagger.start()
            assert machine.run(vm.TIMEOUT).kind == events.QUIT
            ending.set()
            nagger.join()
        finally:
            signal.signal(signal.SIGUSR2, before)
    assert calls >= 500


def test_a_kick_from_outside_is_no_end(tmp_path: Path) -> None:
    """A kick sent by somebody else to a vCPU's thread only takes it out of KVM_RUN for a moment."""
    with vm.flat(bytes.fromhex("ff0500002000 ebf8"), tmp_path) as (machine, _), vm.running(machine):
        wait_until(lambda: machine._idents[0], "the vCPU's thread", 30)
        for _ in range(CYCLES):
            signal.pthread_kill(machine._idents[0], KICK)
        before = machine.memory.unpack("<I", 0x200000)
        wait_until(lambda: machine.memory.unpack("<I", 0x200000) != before, "progress", 30)
        assert machine.reason is None


# --- the command --------------------------------------------------------------------------------------------------------
def flat(tmp_path: Path, code: bytes) -> tuple[str, ...]:
    (tmp_path / "guest").write_bytes(code + vm.HANG)
    return str(tmp_path / "guest"), "-format", "flat32"


def ended(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM has come: status 143 within seconds, or killed by it before there was a handler."""
    start = time.monotonic()
    assert process.wait(PATIENCE) in (128 + signal.SIGTERM, -signal.SIGTERM)
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("stdout", ["read", "full"])
@pytest.mark.parametrize("guest", ["reset", "printing", "halted"])
def test_sigterm_at_random_moments(guest: str, stdout: str, tmp_path: Path) -> None:
    code = {"reset": RESET, "printing": PRINTING, "halted": vm.HALT}[guest]
    rng = random.Random(guest + stdout)
    for _ in range(max(CYCLES // 20, 1)):
        target = {"stdout": subprocess.DEVNULL} if stdout == "read" else {}  # a pipe nobody reads
        with started("run", *flat(tmp_path, code), "-smp", rng.choice("124"), **target) as process:
            time.sleep(rng.random() * 0.6)
            process.terminate()
            ended(process)
            assert process.stderr is not None and b"Traceback" not in process.stderr.read()


def test_sigterm_during_a_reset_storm_leaves_a_sane_terminal(tmp_path: Path) -> None:
    code = b"\x66\xba\xf8\x03" + b"".join(b"\xb0" + bytes([each]) + b"\xee" for each in b"up\n") + RESET
    for seed in range(max(CYCLES // 20, 1)):
        with Screen("run", *flat(tmp_path, code)) as screen:
            screen.expect(b"up\r\nup\r\n")
            time.sleep(random.Random(seed).random() * 0.1)
            screen.signal(signal.SIGTERM)
            assert screen.end() == 143
            assert screen.modes() == screen.before
            assert b"Traceback" not in screen.shown


def test_a_reset_storm_does_not_grow(tmp_path: Path) -> None:
    """Each guest dirties 4 MiB: what is not given back at every reset shows at once."""
    # mov edi,2M; mov ecx,1024; then one store to each page: mov [edi],eax; add edi,4096; loop; say 'r'; reset
    code = bytes.fromhex("bf00002000 b900040000 8907 81c700100000 e2f6 66baf803 b072 ee") + RESET
    with started("run", *flat(tmp_path, code)) as process:
        assert process.stdout is not None
        fd = process.stdout.fileno()

        def resident() -> int:
            with open(f"/proc/{process.pid}/statm") as statm:
                return int(statm.read().split()[1]) << 12

        read_until(fd, b"r" * 5)
        before, descriptors = resident(), len(os.listdir(f"/proc/{process.pid}/fd"))
        for _ in range(6):
            read_until(fd, b"r" * 5)
        assert resident() - before < 24 << 20
        assert len(os.listdir(f"/proc/{process.pid}/fd")) <= descriptors + 12  # a machine may just be there or not
        process.terminate()
        ended(process)
