"""The run loop without KVM: exits are written into a made-up run page, and KVM_RUN is a function of the test."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pyvmm import runloop
from pyvmm.bus import Bus
from pyvmm.errors import KvmError, UnhandledExit
from pyvmm.events import Access
from pyvmm.kvm import structs, uapi
from pyvmm.runloop import Observer, RunLoop, Stop

PIO_DATA = 0x1000
Exit = Callable[["FakeVcpu"], None]


class FakeVcpu:
    """A vCPU's page: what a RunLoop sees of one."""

    fd = 42

    def __init__(self) -> None:
        self.page = memoryview(bytearray(3 * 4096))
        self.words = self.page.cast("I")
        self.quads = self.page.cast("Q")

    def io(self, direction: int, port: int, size: int, data: bytes = b"", count: int = 1) -> None:
        self.words[2] = uapi.KVM_EXIT_IO
        self.words[8] = direction | size << 8 | port << 16
        self.words[9] = count
        self.words[10], self.words[11] = PIO_DATA, 0
        self.page[PIO_DATA : PIO_DATA + len(data)] = data

    def mmio(self, address: int, size: int, data: bytes | None) -> None:
        """A read when ``data`` is None."""
        self.words[2] = uapi.KVM_EXIT_MMIO
        self.quads[4] = address
        self.words[12] = size
        self.page[structs.RUN_MMIO_IS_WRITE] = data is not None
        self.page[structs.RUN_MMIO_DATA : structs.RUN_MMIO_DATA + 8] = (data or b"").ljust(8, b"\xee")


class Recorder:
    """A device: remembers writes; a read gives 0x11, 0x22, ... byte by byte, a new start each time."""

    name = "recorder"
    state = None

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, int | None]] = []

    def read(self, offset: int, size: int) -> int:
        self.seen.append((offset, size, None))
        return sum((0x11 * (at + 1) + len(self.seen) - 1 & 0xFF) << 8 * at for at in range(size))

    def write(self, offset: int, size: int, value: int) -> None:
        self.seen.append((offset, size, value))

    def reset(self) -> None: ...


class Rig:
    """A run loop, its buses with a recorder on each, and a script of KVM_RUN's results."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.vcpu = FakeVcpu()
        self.ports, self.mmio = Bus("pio", 0x1_0000), Bus("mmio", 1 << 64)
        self.device, self.memory = Recorder(), Recorder()
        self.mapping = self.ports.add(0x100, 8, self.device, 4)
        self.mmio.add(0xD000_0000, 0x100, self.memory, 8)
        self.lock = threading.Lock()
        self.interruptions = 0
        self.stop_at = 1  # the interruption that ends the run
        self.unhandled: list[int] = []
        self.script: list[Exit | int] = []
        self.requests: list[tuple[int, int]] = []
        self.patch(monkeypatch)
        self.loop = RunLoop(self.vcpu, self.ports, self.mmio, self.lock, self.interrupted, self.refuse)  # type: ignore[arg-type]

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # As ctypes' ioctl: -1 and errno beside it. (Python's own raises from C, which no fake in Python can.)
        failed = 0

        def ioctl(fd: int, request: int) -> int:
            nonlocal failed
            self.requests.append((fd, request))
            step = self.script.pop(0) if self.script else errno.EINTR
            if isinstance(step, int):
                failed = step
                return -1
            step(self.vcpu)
            return 0

        monkeypatch.setattr(runloop, "run_ioctl", ioctl)
        monkeypatch.setattr(runloop, "get_errno", lambda: failed)

    def interrupted(self) -> bool:
        self.interruptions += 1
        return self.interruptions >= self.stop_at

    def refuse(self, reason: int) -> None:
        self.unhandled.append(reason)
        raise Stop

    def run(self, *script: Exit | int) -> None:
        self.script = list(script)
        self.loop.run()
        assert not self.lock.locked()

    def pio_in(self, port: int, size: int, count: int = 1) -> bytes:
        """What the guest finds in its register (or buffer) after an IN."""
        self.run(lambda vcpu: vcpu.io(0, port, size, b"\xee" * size * count, count))
        return bytes(self.vcpu.page[PIO_DATA : PIO_DATA + size * count])

    def mmio_read(self, address: int, size: int) -> bytes:
        self.run(lambda vcpu: vcpu.mmio(address, size, None))
        return bytes(self.vcpu.page[structs.RUN_MMIO_DATA : structs.RUN_MMIO_DATA + 8])


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    return Rig(monkeypatch)


def out(port: int, data: bytes, size: int = 0) -> Exit:
    size = size or len(data)
    return lambda vcpu: vcpu.io(1, port, size, data, len(data) // size)


# --- ports --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [1, 2, 4])
def test_out(rig: Rig, size: int) -> None:
    rig.run(out(0x102, b"\x12\x34\x56\x78"[:size]))
    assert rig.device.seen == [(2, size, int.from_bytes(b"\x12\x34\x56\x78"[:size], "little"))]
    assert rig.requests[0] == (42, uapi.KVM_RUN)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_in(rig: Rig, size: int) -> None:
    assert rig.pio_in(0x104, size) == b"\x11\x22\x33\x44"[:size]
    assert rig.device.seen == [(4, size, None)]
    assert rig.vcpu.page[PIO_DATA + size] == 0


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("count", [2, 3, 100])
def test_string_out_in_order(rig: Rig, size: int, count: int) -> None:
    data = bytes(at & 0xFF for at in range(size * count))
    rig.run(out(0x100, data, size))
    assert rig.device.seen == [(0, size, int.from_bytes(data[at : at + size], "little")) for at in range(0, len(data), size)]


def test_string_out_of_a_whole_page(rig: Rig) -> None:
    rig.run(out(0x100, bytes(range(256)) * 16, 1))
    assert len(rig.device.seen) == 4096 and rig.device.seen[-1] == (0, 1, 255)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_string_in_fills_every_element(rig: Rig, size: int) -> None:
    data = rig.pio_in(0x100, size, 3)
    assert data == b"".join(bytes(0x11 * (at + 1) + turn for at in range(size)) for turn in range(3))


def test_a_string_of_no_elements_touches_nothing(rig: Rig) -> None:
    rig.run(lambda vcpu: vcpu.io(1, 0x100, 1, b"", 0))
    rig.run(lambda vcpu: vcpu.io(0, 0x100, 1, b"", 0))
    assert rig.device.seen == []


def test_nobody_answers(rig: Rig) -> None:
    assert rig.pio_in(0x4000, 4) == b"\xff" * 4
    rig.run(out(0x4000, b"x"))


def test_the_last_port(rig: Rig) -> None:
    assert rig.pio_in(0xFFFF, 1) == b"\xff"
    assert rig.pio_in(0xFFFF, 4) == b"\xff" * 4


@pytest.mark.parametrize("size", [0, 3, 8])
def test_an_impossible_size_is_named(rig: Rig, size: int) -> None:
    with pytest.raises(UnhandledExit, match=f"KVM_EXIT_IO of {size} bytes at port 0x100"):
        rig.run(lambda vcpu: vcpu.io(1, 0x100, size, b"x" * size))


def test_the_lock_is_held_around_the_device(rig: Rig) -> None:
    held: list[bool] = []
    rig.mapping.read = lambda offset, size: held.append(rig.lock.locked()) or 0  # type: ignore[func-returns-value]
    rig.mapping.write = lambda offset, size, value: held.append(rig.lock.locked())
    rig.run(out(0x100, b"x"))
    rig.pio_in(0x100, 1)
    assert held == [True, True]


# --- the look-up cache --------------------------------------------------------------------------------------------------
def test_a_device_that_comes_later_is_seen(rig: Rig) -> None:
    assert rig.pio_in(0x200, 1) == b"\xff"
    rig.ports.add(0x200, 1, Recorder())
    assert rig.pio_in(0x200, 1) == b"\x11"


def test_a_device_that_goes_is_gone(rig: Rig) -> None:
    assert rig.pio_in(0x100, 1) == b"\x11"
    rig.ports.remove(rig.mapping)
    assert rig.pio_in(0x100, 1) == b"\xff"
    rig.ports.move(rig.mapping, 0x300)
    assert rig.pio_in(0x300, 1) == b"\x12"


def test_a_tap_sees_accesses_from_the_next_on_until_it_is_taken_off(rig: Rig) -> None:
    rig.run(out(0x100, b"a"))
    seen: list[Access] = []
    detach = rig.ports.tap(seen.append)
    rig.run(out(0x101, b"b"))
    rig.pio_in(0x101, 2)
    detach()
    rig.run(out(0x100, b"c"))
    assert [(access.address, access.size, access.is_write, access.value) for access in seen] == [
        (0x101, 1, True, ord("b")),
        (0x101, 2, False, 0x2413),
    ]
    assert len(rig.device.seen) == 4


def test_a_device_may_change_the_bus_while_it_is_called(rig: Rig) -> None:
    rig.mapping.write = lambda offset, size, value: rig.ports.remove(rig.mapping)
    rig.run(out(0x100, b"x"), out(0x100, b"y"))
    assert rig.device.seen == []


def test_the_cache_is_bounded(rig: Rig) -> None:
    rig.run(*(out(port, b"x") for port in range(0x1000, 0x3800)), out(0x100, b"z"))
    assert rig.device.seen == [(0, 1, ord("z"))]
    handlers: Any = next(
        cell.cell_contents
        for cell in rig.loop.exits[uapi.KVM_EXIT_IO].__closure__ or ()
        if isinstance(cell.cell_contents, dict)
    )
    assert len(handlers) <= 4096


# --- MMIO ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_mmio(rig: Rig, size: int) -> None:
    data = bytes(range(1, size + 1))
    rig.run(lambda vcpu: vcpu.mmio(0xD000_0010, size, data))
    assert rig.memory.seen == [(0x10, size, int.from_bytes(data, "little"))]
    assert rig.mmio_read(0xD000_0020, size) == bytes(0x11 * (at + 1) + 1 & 0xFF for at in range(size)) + b"\xee" * (8 - size)


@pytest.mark.parametrize("size", [3, 5, 6, 7])
def test_mmio_of_an_odd_size_goes_byte_by_byte(rig: Rig, size: int) -> None:
    rig.run(lambda vcpu: vcpu.mmio(0xD000_0010, size, bytes(range(1, size + 1))))
    assert rig.memory.seen == [(0x10 + at, 1, at + 1) for at in range(size)]
    rig.memory.seen.clear()
    assert rig.mmio_read(0xD000_0010, size) == bytes(0x11 + at for at in range(size)) + b"\xee" * (8 - size)


@pytest.mark.parametrize("size", [0, 9, 16, 0xFFFF_FFFF])
def test_mmio_of_an_impossible_size_is_named(rig: Rig, size: int) -> None:
    with pytest.raises(UnhandledExit, match=f"KVM_EXIT_MMIO of {size} bytes at 0xd0000000"):
        rig.run(lambda vcpu: vcpu.mmio(0xD000_0000, size, b""))


def test_mmio_nobody_answers(rig: Rig) -> None:
    assert rig.mmio_read(0xFFFF_FFFF_FFFF_FFF8, 8) == b"\xff" * 8
    assert rig.mmio_read(0, 3) == b"\xff\xff\xff" + b"\xee" * 5
    rig.run(lambda vcpu: vcpu.mmio(0x8000_0000, 4, b"abcd"))


def test_mmio_sees_bus_changes_and_taps(rig: Rig) -> None:
    late = Recorder()
    mapping = rig.mmio.add(0xE000_0000, 8, late)
    assert rig.mmio_read(0xE000_0000, 1)[0] == 0x11
    seen: list[Access] = []
    detach = rig.mmio.tap(seen.append)
    rig.run(lambda vcpu: vcpu.mmio(0xE000_0004, 2, b"xy"))
    detach()
    rig.mmio.remove(mapping)
    assert rig.mmio_read(0xE000_0000, 1)[0] == 0xFF
    assert [(access.space, access.offset, access.value) for access in seen] == [("mmio", 4, 0x7978)]


# --- coalesced writes come first ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "make",
    [
        out(0x100, b"x"),
        out(0x100, b"xyz", 1),
        lambda vcpu: vcpu.io(0, 0x100, 1),
        lambda vcpu: vcpu.io(0, 0x100, 1, b"", 2),
        lambda vcpu: vcpu.mmio(0xD000_0000, 4, None),
        lambda vcpu: vcpu.mmio(0xD000_0000, 3, b"abc"),
    ],
    ids=["out", "outs", "in", "ins", "mmio", "odd mmio"],
)
def test_the_ring_is_drained_before_a_device_sees_the_access(rig: Rig, make: Exit) -> None:
    order: list[int] = []
    rig.loop.drain = lambda: order.append(len(rig.device.seen) + len(rig.memory.seen)) or order.append(rig.lock.locked())  # type: ignore[func-returns-value]
    rig.run(make)
    assert order == [0, True]
    assert rig.device.seen or rig.memory.seen


def test_a_patient_read_has_a_handler_of_its_own(rig: Rig) -> None:
    calls: list[str] = []

    def make(loop: Any, cells: memoryview, index: int) -> Any:
        def handler() -> None:
            calls.append("patient")
            cells[index] = 0x77

        return handler

    rig.loop.patient[rig.device.read, 5] = make
    rig.loop.drain = lambda: calls.append("drain")
    rig.run(lambda vcpu: vcpu.io(0, 0x105, 1))
    assert calls == ["patient"] and rig.vcpu.page[PIO_DATA] == 0x77
    calls.clear()
    rig.run(lambda vcpu: vcpu.io(0, 0x105, 1, b"", 3))
    assert calls == ["drain"] and rig.vcpu.page[PIO_DATA : PIO_DATA + 3].tobytes() == bytes([0x11, 0x12, 0x13]), "string input is not"
    calls.clear()
    rig.run(lambda vcpu: vcpu.io(0, 0x104, 1))
    rig.run(out(0x105, b"x"))
    assert calls == ["drain"] * 2, "another register, and a write"
    calls.clear()
    undo = rig.ports.tap(lambda _: None)
    rig.run(lambda vcpu: vcpu.io(0, 0x105, 1))
    undo()
    rig.run(lambda vcpu: vcpu.io(0, 0x105, 1))
    assert calls == ["drain", "patient"], "who watches sees all in its order"


# --- how KVM_RUN ends ---------------------------------------------------------------------------------------------------
def test_eintr_asks_and_goes_on(rig: Rig) -> None:
    rig.stop_at = 3
    rig.run(errno.EINTR, out(0x100, b"a"), errno.EINTR, out(0x100, b"b"), errno.EINTR, out(0x100, b"never"))
    assert [value for _, _, value in rig.device.seen] == [ord("a"), ord("b")]
    assert rig.interruptions == 3


def test_eagain_runs_it_again(rig: Rig) -> None:
    rig.run(errno.EAGAIN, errno.EAGAIN, out(0x100, b"a"))
    assert len(rig.device.seen) == 1
    assert rig.interruptions == 1  # the one that ended the test
    assert rig.loop.retries == 2


@pytest.mark.parametrize("number", [errno.EFAULT, errno.EINVAL, errno.EIO, errno.ENOMEM, errno.EPERM])
def test_any_other_errno_is_a_kvm_error(rig: Rig, number: int) -> None:
    with pytest.raises(KvmError, match=f"KVM_RUN failed with {errno.errorcode[number]}") as caught:
        rig.run(number)
    assert (caught.value.ioctl, caught.value.errno) == ("KVM_RUN", number)


@pytest.mark.parametrize("number", [errno.EINTR, errno.EAGAIN, errno.EIO, errno.EPIPE, errno.EFAULT])
def test_a_devices_os_error_is_not_kvm_runs(rig: Rig, number: int) -> None:
    def broken(offset: int, size: int, value: int) -> None:
        raise OSError(number, "the device's own")

    rig.mapping.write = broken
    with pytest.raises(OSError, match="the device's own"):
        rig.run(out(0x100, b"x"))
    assert rig.interruptions == 0
    assert not rig.lock.locked()


def test_errors_raised_by_a_c_function(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """fcntl.ioctl raises where ctypes returns -1: here os.read's EAGAIN, again and again, until a byte ends it."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    rig.vcpu.fd = read
    monkeypatch.setattr(runloop, "run_ioctl", os.read)
    monkeypatch.setattr(runloop, "get_errno", lambda: errno.EINTR)
    timer = threading.Timer(0.05, os.write, (write, b"x"))
    timer.start()
    rig.loop.run()
    timer.join()
    os.close(read)
    os.close(write)
    assert rig.interruptions == 1


def test_kvm_run_on_what_is_no_vcpu(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyvmm.kvm.vcpu import run_ioctl

    monkeypatch.undo()
    monkeypatch.setattr(runloop, "run_ioctl", run_ioctl)
    with open(os.devnull) as null, pytest.raises(KvmError, match="KVM_RUN failed with ENOTTY"):
        rig.vcpu.fd = null.fileno()
        rig.loop.run()


# --- exits --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("reason", [uapi.KVM_EXIT_SHUTDOWN, uapi.KVM_EXIT_INTERNAL_ERROR, 12345])
def test_an_exit_without_a_handler_is_asked_about(rig: Rig, reason: int) -> None:
    rig.run(lambda vcpu: vcpu.words.__setitem__(2, reason), out(0x100, b"never"))
    assert rig.unhandled == [reason]
    assert rig.device.seen == []


def test_exits_of_a_signal_are_nothing(rig: Rig) -> None:
    rig.run(lambda vcpu: vcpu.words.__setitem__(2, uapi.KVM_EXIT_INTR), out(0x100, b"a"))
    assert rig.unhandled == [] and len(rig.device.seen) == 1


def test_observers_see_exits_around_the_handler_until_they_detach(rig: Rig) -> None:
    plain = dict(rig.loop.exits)
    seen: list[tuple[str, int, int]] = []

    def hook(name: str) -> Callable[[int], None]:
        return lambda reason: seen.append((name, reason, len(rig.device.seen)))

    first = rig.loop.observe(Observer(hook("before"), hook("after")))
    second = rig.loop.observe(Observer(after=hook("outer")))
    rig.run(out(0x100, b"a"))
    io = uapi.KVM_EXIT_IO
    assert seen == [("before", io, 0), ("after", io, 1), ("outer", io, 1)]
    first()
    rig.run(out(0x100, b"b"))
    assert seen[3:] == [("outer", io, 2)]
    second()
    assert {reason: rig.loop.exits[reason] for reason in plain} == plain  # the very same closures: no price is left
    rig.run(out(0x100, b"c"))
    assert len(seen) == 4 and len(rig.device.seen) == 3


def test_an_observer_sees_and_may_take_over_exits_nobody_handles(rig: Rig) -> None:
    seen: list[int] = []
    taken: list[str] = []
    detach = rig.loop.observe(Observer(before=seen.append, instead={uapi.KVM_EXIT_DEBUG: lambda: taken.append("debug")}))
    debug, unknown = (lambda vcpu: vcpu.words.__setitem__(2, uapi.KVM_EXIT_DEBUG)), (lambda vcpu: vcpu.words.__setitem__(2, 12345))
    rig.run(debug, unknown, out(0x100, b"never"))
    assert seen == [uapi.KVM_EXIT_DEBUG, 12345] and taken == ["debug"] and rig.unhandled == [12345]
    detach()
    rig.run(debug)
    assert rig.unhandled == [12345, uapi.KVM_EXIT_DEBUG] and seen[2:] == []


def test_stop_from_a_handler_leaves_at_once(rig: Rig) -> None:
    def stop(offset: int, size: int, value: int) -> None:
        raise Stop

    rig.mapping.write = stop
    rig.run(out(0x100, b"x"), out(0x100, b"y"))
    assert len(rig.requests) == 1 and rig.interruptions == 0
