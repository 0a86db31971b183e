"""Snapshots of real machines: what is put back goes on as before, exit by exit, in the same machine and in a fresh one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pyvmm import catalogue, events
from pyvmm.backends.block.backend import open_drive
from pyvmm.backends.net.backend import open_netdevs
from pyvmm.config import Config
from pyvmm.errors import ConfigError, HostError
from pyvmm.machine import Machine
from pyvmm.snapshot import file, pages, quiesce
from pyvmm.snapshot.capture import Snapshot
from tests.support import features, replay
from tests.support.disk import FakeDisk
from tests.support.process import wait_until

pytestmark = pytest.mark.kvm

BEFORE, BEHIND = 20, 30  # exits
# Not there: guests whose ticks come when the host has time (timer-pit, timer-lapic, echo-irq, bench-hlt), those with more than one
# processor (smp), those that end or stop making exits before (exit-code, hang). virtio-blk and its like make their requests
# one at a time, so the disk's answer is there when the guest looks; bench-e1000 and bench-virtio-net talk to nobody.
STEADY = (
    "hello", "multiboot", "hello-real", "hello-protected", "hello-long", "hello-c", "hello-pvh", "modes", "paging", "trap-emulate",
    "cpuid", "mmio", "string-io", "unclaimed", "bench-in", "bench-mmio-write", "serial-poll", "bench-e1000", "bench-virtio-net",
)  # fmt: skip


@contextmanager
def built(settings: Config) -> Iterator[Machine]:
    """A machine with its consoles, disks and wires."""
    with ExitStack() as stack:
        drives = {drive.id: open_drive(drive) for drive in settings.drives}
        for drive in drives.values():
            stack.callback(drive.close)
        netdevs = open_netdevs(settings.netdevs) if settings.netdevs else {}
        for netdev in reversed(netdevs.values()):
            stack.callback(netdev.close)
        yield stack.enter_context(Machine(settings, replay.collectors(settings), drives=drives, netdevs=netdevs))


def able(name: str) -> catalogue.Guest:
    """The guest, or a skip where KVM cannot run it."""
    guest = catalogue.find(name)
    for need in guest.kvm:
        if not features.have(need):
            pytest.skip(f"this KVM has no {need}")
    return guest


def steady(name: str) -> Config:
    return replay.config(name, "-m", "16M", "-machine", "pit=off")


def history(stops: replay.Stops, count: int) -> list[dict[str, str]]:
    """The whole state after each of the next ``count`` exits."""
    found = []
    for _ in range(count):
        assert stops.run(1), stops.machine.reason
        found.append(replay.digests(stops.machine.save()))
    return found


def assert_same(one: list[dict[str, str]], other: list[dict[str, str]]) -> None:
    for at, (first, second) in enumerate(zip(one, other, strict=True)):
        assert not replay.differences(first, second), f"after exit {at}"


@pytest.mark.parametrize("name", STEADY)
def test_loaded_in_place_a_guest_repeats_itself(name: str) -> None:
    able(name)
    with built(steady(name)) as machine, replay.running(machine):
        stops = replay.Stops(machine)
        machine.track(True)
        assert stops.run(BEFORE), machine.reason
        snapshot = machine.save()
        first = history(stops, BEHIND)
        machine.load(snapshot)
        assert not replay.differences(replay.digests(snapshot), replay.digests(machine.save()))
        assert_same(first, history(stops, BEHIND))


@pytest.mark.parametrize("name", ["multiboot", "modes", "virtio-blk", "e1000", "string-io"])
def test_a_fresh_machine_goes_on_from_a_file(name: str, tmp_path: Path) -> None:
    able(name)
    path = str(tmp_path / "snapshot")
    settings = steady(name)
    with built(settings) as machine, replay.running(machine):
        stops = replay.Stops(machine)
        assert stops.run(BEFORE), machine.reason
        snapshot = machine.save()
        file.write(snapshot, path)
        first = history(stops, BEHIND)
    with built(settings) as machine:
        file.load(machine, path)
        with replay.running(machine):
            assert not replay.differences(replay.digests(snapshot), replay.digests(machine.save()))
            assert_same(first, history(replay.Stops(machine), BEHIND))


@pytest.mark.parametrize("name", ["virtio-blk", "e1000", "virtio-net", "ring3", "timer-pit", "timer-lapic", "echo-irq", "bench-hlt"])
@pytest.mark.parametrize("tracked", [False, True])
def test_a_guest_taken_and_put_back_at_any_moment_ends_well(name: str, tracked: bool) -> None:
    guest = able(name)
    with built(replay.config(name, "-m", "16M")) as machine:
        console = machine.devices["serial0"].output.__self__
        finish = threading.Thread(target=machine.run, args=(60.0,))
        finish.start()
        machine.track(tracked)
        count = 0
        if guest.input:
            wait_until(lambda: b"type" in console.output, "it listens")
            typing(machine, guest.input)
        while machine.reason is None and count < 40:
            try:
                again(machine)
            except HostError:
                break  # it has ended
            count += 1
            time.sleep(0.002)
        finish.join(60)
        assert machine.reason is not None
        assert machine.reason.kind in (events.POWEROFF, events.DEBUG_EXIT), machine.reason
        text = console.output.decode()
        for expected in guest.expect_output:
            assert expected in text


def again(machine: Machine) -> None:
    """Takes it and puts it back at the same moment: what it has sent, it does not send again."""
    with machine.quiesce():
        machine.load(machine.save())


def typing(machine: Machine, data: bytes) -> None:
    """Types as fast as the guest reads."""
    serial = machine.devices["serial0"]
    left = bytearray(data)

    def more() -> None:
        while left and serial.receive(left[:1]):
            del left[:1]

    with machine.lock:
        serial.on_room = more
        more()


def test_processors_are_taken_together() -> None:
    with built(replay.config("smp", "-m", "16M")) as machine:
        console = machine.devices["serial0"].output.__self__
        finish = threading.Thread(target=machine.run, args=(60.0,))
        finish.start()
        for _ in range(10):
            try:
                again(machine)
            except HostError:
                break
            time.sleep(0.02)
        finish.join(60)
        assert b"4 of 4 processors" in console.output


def test_the_output_of_a_guest_moved_in_the_middle_is_whole(tmp_path: Path) -> None:
    path = str(tmp_path / "snapshot")
    settings = replay.config("hello", "-m", "16M")
    with built(settings) as machine, replay.running(machine):
        assert replay.Stops(machine).run(40)
        before = bytes(machine.devices["serial0"].output.__self__.output)
        file.write(machine.save(), path)
    with built(settings) as machine:
        file.load(machine, path)
        assert machine.run(20).kind == events.POWEROFF
        behind = bytes(machine.devices["serial0"].output.__self__.output)
    assert before and behind and before + behind == whole("hello")


def whole(name: str) -> bytes:
    with built(replay.config(name, "-m", "16M")) as machine:
        machine.run(20)
        return bytes(machine.devices["serial0"].output.__self__.output)


def test_a_coalesced_console_loses_nothing() -> None:
    settings = replay.config("serial-poll", "-m", "16M").replace(coalesce=True)
    with built(settings) as machine:
        thread = threading.Thread(target=machine.run, args=(60.0,))
        thread.start()
        taken = 0
        while machine.reason is None and taken < 20:
            try:
                again(machine)
                taken += 1
            except HostError:
                break
            time.sleep(0.005)
        thread.join(60)
        assert len(machine.devices["serial0"].output.__self__.output) == 64 << 10


# --- quiesce ---------------------------------------------------------------------------------------------------------
def test_a_quiet_machine_stands_still_and_goes_on() -> None:
    with built(replay.config("bench-out", "-m", "16M")) as machine, replay.running(machine):
        machine.resume()
        with machine.quiesce():
            first = machine.save()
            time.sleep(0.05)
            second = machine.save()
        assert not replay.differences(replay.digests(first), replay.digests(second))
        wait_until(lambda: machine.reason is not None, "it goes on to its end")


def test_pause_and_resume_meanwhile_have_their_effect_afterwards() -> None:
    with built(replay.config("hang", "-m", "16M")) as machine, replay.running(machine):
        wait_until(lambda: machine._parked == 1, "its thread is there")
        with machine.quiesce():
            machine.resume()
            assert machine._parked == len(machine.vcpus)
        wait_until(lambda: not machine._parked, "it runs")
        with machine.quiesce():
            machine.pause()
        assert machine.paused
        assert machine._parked == 1


def test_a_running_machine_takes_a_file(tmp_path: Path) -> None:
    path = str(tmp_path / "snapshot")
    with built(replay.config("hang", "-m", "16M")) as machine, replay.running(machine):
        machine.resume()
        file.write(machine.save(), path)
        file.load(machine, path)
        assert machine.reason is None


def test_there_is_nothing_to_take_after_the_end() -> None:
    with built(replay.config("hello", "-m", "16M")) as machine:
        machine.run(20)
        with pytest.raises(HostError, match="the run is over"):
            machine.save()
        assert machine.lock.acquire(timeout=1)


def test_threads_take_turns() -> None:
    taken: list[Snapshot] = []
    with built(replay.config("hang", "-m", "16M")) as machine, replay.running(machine):
        machine.resume()
        threads = [threading.Thread(target=lambda: taken.extend(machine.save() for _ in range(10))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(taken) == 30


# --- what fits what --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "names"),
    [(("-m", "17M"), "-m"), (("-smp", "2"), "-smp"), (("-device", "virtio-rng-pci"), "-device"), (("-machine", "pit=off"), "-machine")],
)
def test_a_snapshot_of_another_machine_is_refused(options: tuple[str, ...], names: str) -> None:
    with built(replay.config("hello", "-m", "16M")) as machine:
        snapshot = machine.save()
    with built(replay.config("hello", *(() if "-m" in options else ("-m", "16M")), *options)) as machine:
        before = replay.digests(machine.save())
        with pytest.raises(ConfigError, match=f"another machine: {names}") as caught:
            machine.load(snapshot)
        assert "\n" not in str(caught.value)
        assert not replay.differences(before, replay.digests(machine.save()))


def test_a_writable_disk_is_told_of() -> None:
    with built(replay.config("virtio-blk", "-m", "16M")) as machine:
        assert ["disk0" in note for note in machine.save().notes] == [True]


def test_tracking_ends() -> None:
    with built(steady("multiboot")) as machine, replay.running(machine):
        stops = replay.Stops(machine)
        machine.track(True)
        assert stops.run(10)
        snapshot = machine.save()
        machine.track(False)
        assert not machine.memory.tracked
        first = history(stops, 10)
        machine.load(snapshot)
        assert_same(first, history(stops, 10))


def test_what_is_not_tracked_and_what_is_are_the_same() -> None:
    with built(steady("virtio-blk")) as machine, replay.running(machine):
        stops = replay.Stops(machine)
        machine.track(True)
        for _ in range(10):
            assert stops.run(7)
            taken = machine.save()
            with machine.quiesce():
                whole = pages.scan(machine.memory)
            pages_of = {number: page for number, page in taken.memory.whole().items() if page != pages.ZERO}
            assert pages_of == whole.own


def test_what_a_disk_was_asked_is_done_before() -> None:
    disk = FakeDisk(1 << 20)
    settings = replay.config("virtio-blk", "-m", "16M").replace(drives=())
    with Machine(settings, replay.collectors(settings), drives={"disk0": disk}) as machine, replay.running(machine):
        disk.gate.clear()
        machine.resume()
        wait_until(lambda: disk.entered > 0, "a request is in flight")
        taken: list[Snapshot] = []
        thread = threading.Thread(target=lambda: taken.append(machine.save()))
        thread.start()
        time.sleep(0.1)
        assert not taken
        assert not disk.log
        disk.gate.set()
        thread.join(30)
        assert disk.log
        (core,) = (core for name, core in taken[0].devices.items() if name.endswith("-core"))
        assert core["queues"][0]["last_avail"] == core["queues"][0]["next_used"] > 0
        wait_until(lambda: machine.reason is not None, "the guest goes on to its end")
        assert machine.reason is not None
        assert machine.reason.kind == events.POWEROFF


def test_a_disk_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiesce, "PATIENCE", 0.1)
    disk = FakeDisk(1 << 20)
    settings = replay.config("virtio-blk", "-m", "16M").replace(drives=())
    with Machine(settings, replay.collectors(settings), drives={"disk0": disk}) as machine, replay.running(machine):
        disk.gate.clear()
        machine.resume()
        wait_until(lambda: disk.entered > 0, "a request is in flight")
        with pytest.raises(HostError, match="the host's disk does not answer"):
            machine.save()
        disk.gate.set()
        wait_until(lambda: machine.reason is not None, "the guest goes on to its end")
        assert machine.reason is not None
        assert machine.reason.kind == events.POWEROFF
