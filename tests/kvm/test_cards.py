"""Virtio cards on a real VM: doorbells without an exit, completions by message, mistakes in options, and the end of a run.

PYVMM_CYCLES=200 for the long version.
"""

from __future__ import annotations

import os
import random
import threading
import time
from _thread import _count
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pyvmm import catalogue, events, machine
from pyvmm.config import BootConfig, ChardevConfig, Config, DeviceConfig, DriveConfig, SerialConfig
from pyvmm.devices.virtio.blk import VirtioBlk
from pyvmm.errors import ConfigError
from pyvmm.layout import MIB
from pyvmm.machine import Machine
from tests.support import vm
from tests.support.disk import FakeDisk
from tests.support.process import descriptors, wait_until

pytestmark = pytest.mark.kvm
CYCLES = int(os.environ.get("PYVMM_CYCLES", "100"))
GUESTS = catalogue.load()


def device(name: str, **options: object) -> DeviceConfig:
    return DeviceConfig(name=name.replace("_", "-"), options=tuple((key.replace("_", "-"), str(value)) for key, value in options.items()))


@contextmanager
def built(
    disk: FakeDisk, cmdline: str = "irq", guest: str = "virtio-blk", more: tuple[DeviceConfig, ...] = (), **options: object
) -> Iterator[tuple[Machine, vm.Collector]]:
    """A machine with one of the disk guests, not yet running."""
    console = vm.Collector()
    config = Config(
        boot=BootConfig(kernel=GUESTS[guest].file, cmdline=cmdline),
        memory=32 * MIB,
        serials=(SerialConfig(kind="null"),),
        devices=(vm.DEBUG_EXIT, device("virtio-blk-pci", drive="d", id="disk", **options), *more),
    )
    with Machine(config, [console], drives={"d": disk}) as machine:
        yield machine, console


def count_kicks(machine: Machine) -> list[int]:
    """Which queues were kicked by an exit."""
    kicks: list[int] = []
    core = machine.devices["disk-core"]
    kick = core.kick

    def counting(index: int) -> None:
        kicks.append(index)
        kick(index)

    core.kick = counting
    return kicks


def count_serves(machine: Machine) -> list[int]:
    """On which thread each doorbell was served."""
    threads: list[int] = []
    disk = machine.devices["disk"]
    serve = disk.serve

    def counting(index: int) -> None:
        threads.append(threading.get_ident())
        serve(index)

    disk.serve = counting
    return threads


def test_doorbells_need_no_exit_and_completions_come_by_message() -> None:
    with built(FakeDisk()) as (machine, console):
        kicks, serves = count_kicks(machine), count_serves(machine)
        messages: list[None] = []
        msix = machine.devices["disk-card"].msix
        make = msix.make_msi

        def counting(address: int, data: int) -> Callable[[], None]:
            send = make(address, data)
            return lambda: (messages.append(None), send())[1]  # type: ignore[func-returns-value]

        msix.make_msi = counting
        reason = machine.run(vm.TIMEOUT)
        assert b"PASS" in console.output, console.output
        assert reason.kind == events.POWEROFF
        assert not kicks
        assert serves and set(serves) - {threading.get_ident()} == set(serves)
        assert len(messages) >= 5
        assert machine.devices["disk-core"].state.isr == 0


def test_without_ioeventfds_every_doorbell_is_an_exit() -> None:
    with built(FakeDisk(), ioeventfd="off") as (machine, console):
        kicks = count_kicks(machine)
        machine.run(vm.TIMEOUT)
        assert b"PASS" in console.output
        assert kicks
        assert not machine.devices["disk-core"].doorbells.bound


def test_a_kernel_without_room_for_doorbells_means_exits() -> None:
    from pyvmm.errors import KvmError

    with built(FakeDisk()) as (machine, console):

        def refuse(*_: object, **__: object) -> None:
            raise KvmError("KVM_IOEVENTFD", 28)

        machine.vm.ioeventfd = refuse  # type: ignore[method-assign]
        kicks = count_kicks(machine)
        machine.run(vm.TIMEOUT)
        assert b"PASS" in console.output
        assert kicks


@pytest.mark.parametrize(
    "options", [{}, {"num_queues": 4}, {"vectors": 1}, {"vectors": 2}, {"vectors": 64}, {"addr": "1f"}, {"queue_size": 1024}], ids=str
)
def test_options(options: dict[str, object]) -> None:
    with built(FakeDisk(), **options) as (machine, console):
        machine.run(vm.TIMEOUT)
        assert b"PASS" in console.output, console.output


def test_polling_without_messages() -> None:
    with built(FakeDisk(), cmdline="", vectors=0) as (machine, console):
        machine.run(vm.TIMEOUT)
        assert b"PASS" in console.output, console.output


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("virtio-blk-pci", {"drive": "nobody"}, "no such drive"),
        ("virtio-blk-pci", {"drive": "d", "queue_size": 100}, "power of two"),
        ("virtio-blk-pci", {"drive": "d", "queue_size": 2048}, "4 to 1024"),
        ("virtio-blk-pci", {"drive": "d", "num_queues": 0}, "1 to 64"),
        ("virtio-blk-pci", {"drive": "d", "addr": "20"}, "slot"),
        ("virtio-blk-pci", {"drive": "d", "addr": "0"}, "slot"),
        ("virtio-blk-pci", {"drive": "d", "addr": "1.1"}, "slot"),
        ("virtio-blk-pci", {"drive": "d", "addr": "x"}, "slot"),
        ("virtio-blk-pci", {"drive": "d", "addr": "5", "id": "two"}, "taken"),
        ("virtio-blk-pci", {"drive": "d", "vectors": 4096}, "0 to 2048"),
        ("virtio-blk-pci", {"drive": "d", "ioeventfd": "maybe"}, "on or"),
        ("virtio-blk-pci", {"drive": "d", "write-cache": "maybe"}, "on or"),
        ("virtio-blk-pci", {"drive": "d", "logical_block_size": 1000}, "power of two"),
        ("virtio-blk-pci", {"drive": "odd", "logical_block_size": 4096}, "leave it out"),
        ("virtio-blk-pci", {"drive": "d", "logical_block_size": 4096, "physical_block_size": 512}, "4096 to"),
        ("virtio-blk-pci", {"drive": "d", "min_io_size": 1000}, "multiple of 512"),
        ("virtio-rng-pci", {"max-bytes": "x"}, "number"),
        ("virtio-gpu-pci", {}, "not known"),
        ("virtconsole", {"chardev": "c"}, ""),
    ],
)
def test_mistakes_are_one_line(name: str, options: dict[str, object], words: str) -> None:
    keys = ("queue_size", "num_queues")
    named = {key.replace("_", "-") if key in keys else key: value for key, value in options.items()}
    given = DeviceConfig(name=name, options=tuple((key, str(value)) for key, value in named.items()))
    first = DeviceConfig(name="virtio-blk-pci", options=(("drive", "d"), ("id", "disk"), ("addr", "5")))
    config = Config(boot=BootConfig(kernel=GUESTS["virtio-blk"].file), memory=32 * MIB, serials=(), devices=(first, given))
    before = len(descriptors())
    try:
        with Machine(config, [], drives={"d": FakeDisk(), "odd": FakeDisk(1 * MIB + 512)}):
            assert not words
    except ConfigError as error:
        assert words and words in str(error), error
        assert "\n" not in str(error)
    assert len(descriptors()) == before


def test_a_console_has_one_port() -> None:
    chardevs = tuple(ChardevConfig(id=name, backend=SerialConfig()) for name in "ab")
    devices = (device("virtio-serial-pci"), device("virtconsole", chardev="a"), device("virtconsole", chardev="b"))
    config = Config(boot=BootConfig(kernel=GUESTS["virtio-blk"].file), serials=(), devices=devices, chardevs=chardevs)
    with pytest.raises(ConfigError, match="before the second"):
        Machine(config, [], chardevs={"a": vm.Collector(), "b": vm.Collector()})
    devices = (devices[0], devices[1], device("virtio-serial-pci"), devices[2], device("virtio-serial-device"))
    consoles = {"a": vm.Collector(), "b": vm.Collector()}
    with Machine(config.replace(devices=devices), [], chardevs=consoles) as machine:
        for name, number in (("a", 0), ("b", 1)):
            machine.devices[f"virtio-serial{number}"].write_config(8, 4, ord(name))
            assert consoles[name].output == name.encode()
        machine.devices["virtio-serial2"].write_config(8, 4, 0x41)  # no console behind: nobody hears


def test_mmio_cards() -> None:
    devices = tuple(device("virtio-rng-device") for _ in range(8))
    config = Config(boot=BootConfig(kernel=GUESTS["virtio-blk"].file), serials=(), devices=devices)
    with Machine(config, []) as machine:
        magic = [machine.mmio.read(0xFEB0_0000 + 0x200 * number, 4) for number in range(9)]
        assert magic == [0x74726976] * 8 + [0xFFFF_FFFF]
        assert machine.mmio.read(0xFEB0_0008, 4) == 4
    with pytest.raises(ConfigError, match="at most 8"):
        Machine(config.replace(devices=(*devices, devices[0])), [])


# --- the end of a run ---------------------------------------------------------------------------------------------------
def test_start_and_stop_again_and_again() -> None:
    """At random moments, while the guest reads and writes: nothing stays behind, and nothing goes wrong."""
    rng = random.Random(1)

    before, threads = descriptors(), _count()
    kinds = set()
    for cycle in range(max(CYCLES // 2, 1)):
        disk = FakeDisk()
        disk.cached = rng.random() < 0.5
        options = f"op={rng.choice(('read', 'write'))} count=1000000 depth={rng.choice((1, 8, 32))} {rng.choice(('irq', ''))}"
        with built(disk, options, "bench-blk", (device("virtio-rng-pci"),), num_queues=rng.choice((1, 2))) as (machine, _):
            stopper = threading.Timer(rng.choice((0, 0.001, 0.01, rng.random() * 0.1)), machine.stop)
            stopper.start()
            start = time.monotonic()
            reason = machine.run(vm.TIMEOUT)
            kinds.add(reason.kind)
            assert not machine.hung, f"cycle {cycle}"
            assert time.monotonic() - start < 20
            stopper.join()
    assert kinds == {events.QUIT}
    wait_until(lambda: _count() <= threads, "the end of all threads", 30)
    assert descriptors() == before


def test_a_machine_that_is_never_run_leaves_nothing() -> None:
    before = len(descriptors())
    with built(FakeDisk(), more=(device("virtio-rng-device"),)):
        pass
    assert len(descriptors()) == before


def test_a_disk_that_does_not_answer_ends_the_run_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "JOIN_SECONDS", 0.2)
    disk = FakeDisk()
    with built(disk, "op=read", "bench-blk") as (one, _):
        disk.gate.clear()
        threading.Thread(target=lambda: (wait_until(lambda: disk.entered, "a request", 30), one.stop())).start()
        start = time.monotonic()
        assert one.run(vm.TIMEOUT).kind == events.QUIT
        assert time.monotonic() - start < 20
        assert one.hung and one.disk_hung and "disk" in one.stuck
        one.close()  # nothing: the thread may still write into the guest's memory
        assert one.memory.regions
        disk.gate.set()
        wait_until(lambda: not one.hung, "the thread's end", 30)


def test_a_guest_may_reset_a_disk_that_does_not_answer() -> None:
    """The status register keeps its value until the request is through; the machine lock is not held meanwhile."""
    disk = FakeDisk()
    with built(disk, "op=read", "bench-blk") as (one, _), vm.running(one):
        disk.gate.clear()
        wait_until(lambda: disk.entered and not disk.gate.is_set(), "a request", 30)
        core = one.devices["disk-core"]
        entered = disk.entered
        wait_until(lambda: disk.entered > entered or any(core._serving), "a request that waits", 30)
        with one.lock:
            start = time.monotonic()
            core.write_status(0)
            assert time.monotonic() - start < 5
            assert core.read_status() != 0
        disk.gate.set()

        def complete() -> bool:
            with one.lock:
                return core.read_status() == 0

        wait_until(complete, "the reset", 30)


@pytest.mark.parametrize("depth", [1, 8])
def test_a_bug_in_an_io_thread_ends_the_run_with_a_verdict(depth: int) -> None:
    disk = FakeDisk()

    def crash(offset: int, views: list[memoryview]) -> None:
        raise IndexError("bug")

    disk.read = crash  # type: ignore[method-assign]
    with built(disk, f"op=read depth={depth} irq", "bench-blk") as (one, _):
        reason = one.run(vm.TIMEOUT)
        assert reason.kind == events.VMM_ERROR
        assert "IndexError" in reason.detail and "\n" not in reason.detail
        assert not one.hung


def test_what_is_registered() -> None:
    named = (device("virtio-rng-pci", id="rtc"), device("virtio-rng-pci", id="disk"), device("virtio-rng-pci", id="disk-core"))
    with built(FakeDisk(), more=(device("virtio-rng-pci"), device("virtio-blk-device", drive="d"), *named)) as (one, _):
        assert isinstance(one.devices["disk"], VirtioBlk)
        assert not hasattr(one.devices["rtc"], "signals")  # the board's names come first
        for name in ("disk", "virtio-rng0", "virtio-blk0", "virtio-rng-rtc", "virtio-rng-disk", "virtio-rng1"):
            assert one.devices[f"{name}-core"].device is one.devices[name]
            assert one.devices[f"{name}-card"].core is one.devices[f"{name}-core"]


def test_a_drives_serial_is_its_cards_unless_the_card_has_one() -> None:
    for own, shown in (({}, b'id is "OF-DRIVE"'), ({"serial": "OF-CARD"}, b'id is "OF-CARD"')):
        console = vm.Collector()
        config = Config(
            boot=BootConfig(kernel=GUESTS["virtio-blk"].file, cmdline="irq"),
            memory=32 * MIB,
            serials=(SerialConfig(kind="null"),),
            drives=(DriveConfig(id="d", format="scratch", size=MIB, interface="none", serial="OF-DRIVE"),),
            devices=(vm.DEBUG_EXIT, device("virtio-blk-pci", drive="d", **own)),
        )
        with Machine(config, [console], drives={"d": FakeDisk()}) as machine:
            machine.run(timeout=60)
        assert shown in console.output, console.output
