"""Recordings of tiny guests hold what the machine really was at every exit: KVM and the machine itself are asked for comparison."""

from __future__ import annotations

import hashlib
import os
from itertools import pairwise
from pathlib import Path
from time import sleep

import pytest

from pyvmm import catalogue, events, exits
from pyvmm.backends.block.backend import open_drive
from pyvmm.backends.net.backend import open_netdevs
from pyvmm.cli.options import Options
from pyvmm.config import Config
from pyvmm.events import StopReason
from pyvmm.kvm import uapi
from pyvmm.machine import Machine
from pyvmm.observe.explain.layout import Layout, plain, states
from pyvmm.observe.recording import format, ram, recorder, writer
from pyvmm.observe.recording.player import Player
from pyvmm.observe.recording.reader import Recording
from pyvmm.observe.recording.recorder import Recorder
from pyvmm.runloop import Observer
from pyvmm.snapshot import parts
from tests.support import features
from tests.support.vm import POWER_OFF, Collector, flat

pytestmark = pytest.mark.kvm()
LIMIT = 60.0
STRIDE = 16 if os.environ.get("PYVMM_NESTED") else 1  # of how many exits one has its memory compared: emulated hosts are slow


class Witness:
    """Asks KVM and the machine at every exit, behind the recorder; not where the I/O loop (a timer, a frame) has come in between."""

    def __init__(self, machine: Machine, watched: Recorder, memory: bool) -> None:
        self.machine, self.recorder, self.memory = machine, watched, memory
        self.last = b""  # memory when all was over
        self.missed = 0
        self.seen: dict[int, tuple[bytes, dict[str, object], dict[str, object], bytes]] = {}
        for vcpu, loop in zip(machine.vcpus, machine.runloops, strict=True):
            loop.observe(Observer(after=lambda reason, vcpu=vcpu: self._look(vcpu)))  # type: ignore[misc]

    def _look(self, vcpu) -> None:  # type: ignore[no-untyped-def]
        registers = bytes(vcpu.get_regs()) + bytes(vcpu.get_sregs()) + bytes(vcpu.get_events())
        with self.machine.lock:
            for core in parts.cores(self.machine):
                core.save()
            devices, layout = states(self.machine), plain(Layout.of(self.machine))
            assert self.recorder.running is not None
            number = self.recorder.running.count
            if self.machine.loop.turns != self.recorder.running._states._turns:
                self.missed += 1
                return
            digest = ram_digest(self.machine) if self.memory and number % STRIDE == 0 else b""
        self.seen[number] = registers, devices, layout, digest


def ram_digest(machine: Machine) -> bytes:
    found = hashlib.sha256()
    for region in machine.memory.regions:
        found.update(region.view)
    return found.digest()


def replayed_digest(recording: Recording, exit: int) -> bytes:
    memory, found = recording.state(exit).memory, hashlib.sha256()
    for gpa, length in recording.header.ram:
        for number in range(gpa // 4096, (gpa + length) // 4096):
            found.update(memory.page(number))
    return found.digest()


def record(config: Config, path: Path, name: str, memory: bool = True, typed: bytes = b"") -> tuple[Witness, StopReason, bytes]:
    """Runs a guest recorded and witnessed."""
    console = Collector()
    console.in_fd, keyboard = os.pipe()
    os.write(keyboard, typed)
    drives = {drive.id: open_drive(drive) for drive in config.drives}
    netdevs = open_netdevs(config.netdevs)
    watched = Recorder(str(path), name, ["test"])
    reason = None
    try:
        with Machine(config, [console], drives=drives, netdevs=netdevs) as machine:
            watched.attach(machine)
            witness = Witness(machine, watched, memory)
            reason = machine.run(LIMIT)
            witness.last = ram_digest(machine)
    finally:
        watched.close(reason)
        for end in (keyboard, console.in_fd):
            os.close(end)
        for each in (*drives.values(), *netdevs.values()):
            each.close()
    return witness, reason, bytes(console.output)


def compare(recording: Recording, witness: Witness, memory: bool) -> int:
    """Every witnessed exit with its replay; returns how many memories were compared."""
    compared = 0
    for number, (registers, devices, layout, digest) in witness.seen.items():
        entry, state = recording.entry(number), recording.state(number)
        if not entry.flags & format.INSIDE:
            assert state.registers[entry.vcpu] == registers, f"registers behind exit {number}"
        assert state.devices == devices, f"devices behind exit {number}"
        assert state.layout == layout, f"layout behind exit {number}"
        if memory and state.memory.exit == number and number % STRIDE == 0:
            compared += 1
            assert replayed_digest(recording, number) == digest, f"memory behind exit {number}"
    return compared


SINGLE = ["hello", "multiboot", "modes", "echo-irq", "timer-lapic", "mmio", "string-io", "triple-fault", "exit-code"]
SINGLE += ["virtio-blk", "e1000", "virtio-net"]


@pytest.mark.parametrize("name", SINGLE)
def test_every_exit_is_what_the_machine_was(name: str, tmp_path: Path) -> None:
    guest = catalogue.load()[name]
    for need in guest.kvm.split() if isinstance(guest.kvm, str) else guest.kvm:
        if not features.have(need):
            pytest.skip(f"this KVM cannot: {need}")
    config = Options([name, "-m", "2M", "-no-reboot"]).config
    assert config is not None
    path = tmp_path / "s.pvm"
    witness, reason, output = record(config, path, name, typed=guest.input)
    with Recording.open(str(path)) as recording:
        assert recording.note == ""
        assert recording.end is not None and recording.end["kind"] == reason.kind
        assert len(witness.seen) > max(20, witness.missed)
        assert replayed_digest(recording, recording.count) == witness.last
        assert recording.keyframes[-1] == recording.count
        assert compare(recording, witness, memory=True) == len([number for number in witness.seen if number % STRIDE == 0])
        player = Player(recording)
        stop = player.run()
        assert player.console(1 << 20) == output[-len(player.console(1 << 20)) :]
        assert b"".join(entry.console for entry in recording.exits()) + recording.end["console"] == output
        assert stop.why == ("crashed" if reason.kind == events.CRASH else "end")
        if reason.kind == events.CRASH:
            assert exits.thaw(recording.entry(recording.count).frozen).number == uapi.KVM_EXIT_SHUTDOWN


def test_memory_of_several_vcpus_is_that_of_the_exit(tmp_path: Path) -> None:
    config = Options(["smp", "-m", "2M", "-no-reboot"]).config
    assert config is not None
    witness, _, _ = record(config, tmp_path / "s.pvm", "smp", memory=False)
    with Recording.open(str(tmp_path / "s.pvm")) as recording:
        compare(recording, witness, memory=False)
        assert {entry.vcpu for entry in recording.exits()} == {0, 1, 2, 3} or recording.count == len(witness.seen) + witness.missed
        assert Player(recording).run().why == "end"


@pytest.mark.parametrize("direct", [False, True])
def test_a_large_guest_has_its_memory_at_keyframes(direct: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "one_cpu", lambda: direct)
    monkeypatch.setattr(ram, "SMALL_PAGES", 1)
    monkeypatch.setattr(recorder, "KEYFRAME_EXITS", 10)
    monkeypatch.setattr(recorder, "PATIENCE", 0)
    config = Options(["multiboot", "-m", "2M"]).config
    assert config is not None
    witness, _, _ = record(config, tmp_path / "s.pvm", "multiboot")
    with Recording.open(str(tmp_path / "s.pvm")) as recording:
        assert direct or again(recording) == 0
        assert bool([chunk for chunk in recording._pages if chunk.flags & format.DIRECT]) == direct
        wanted = [number for number in set(recording.keyframes) & set(witness.seen) if number % STRIDE == 0]
        assert compare(recording, witness, memory=True) == len(wanted) >= 10 // STRIDE
        player = Player(recording)
        player.goto(player.at.replace(exit=recording.keyframes[3] + 2))
        assert "2 before" in player.memory_note


def again(recording: Recording) -> int:
    """How many pages were written though they were in the recording already."""
    found = 0
    for number, places in recording._places.items():
        keyframes = [recording._page_keyframes[place] for place in places]
        contents = [bytes(4096)] + [recording.page(number, keyframe) for keyframe in keyframes]
        found += sum(earlier == later for earlier, later in pairwise(contents))
    return found


@pytest.mark.parametrize("direct", [False, True])
def test_a_large_guest_of_which_not_all_is_kept(direct: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was forgotten goes in again when it is written, also when it becomes zeros."""
    code = bytes.fromhex("c605 00002000 ee e680 c605 00002000 00 e680") + POWER_OFF  # 2 MiB: a byte; out; zero; out
    monkeypatch.setattr(writer, "one_cpu", lambda: direct)
    monkeypatch.setattr(ram, "SMALL_PAGES", 1)
    monkeypatch.setattr(ram, "KEPT_PAGES", 0)
    monkeypatch.setattr(recorder, "KEYFRAME_EXITS", 1)
    path = tmp_path / "s.pvm"
    watched = Recorder(str(path), "forgets", [])
    with flat(code, tmp_path) as (machine, _):
        watched.attach(machine)
        witness = Witness(machine, watched, memory=True)
        reason = machine.run(LIMIT)
    watched.close(reason)
    with Recording.open(str(path)) as recording:
        assert [recording.state(number).memory.read(0x20_0000, 1) for number in (0, 1, 2)] == [b"\0", b"\xee", b"\0"]
        compare(recording, witness, memory=True)


def test_keyframes_come_by_count_and_share_what_did_not_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "KEYFRAME_EXITS", 20)
    monkeypatch.setattr(recorder, "KEYFRAME_NS", 1 << 60)
    monkeypatch.setattr(recorder, "PATIENCE", 0)
    config = Options(["multiboot", "-m", "2M"]).config
    assert config is not None
    witness, _, _ = record(config, tmp_path / "s.pvm", "multiboot")
    with Recording.open(str(tmp_path / "s.pvm")) as recording:
        assert recording.keyframes[:3] == [0, 20, 40]
        assert compare(recording, witness, memory=True) == len([number for number in witness.seen if number % STRIDE == 0])
        state = recording.keyframe(2)
        assert state.vcpus[0]["regs"] == state.registers[0][: format.REGS]


def test_keyframes_are_no_rarer_where_the_writer_lags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guest waits for it, so that what is in memory is bounded; a reader never has more than that many exits to go through."""
    waiting: list[int] = []

    def slow(self: writer.Writer, pieces: list[bytes], write=writer.Writer._write) -> None:  # type: ignore[no-untyped-def]
        waiting.append(self.backlog)
        sleep(0.02)
        write(self, pieces)

    monkeypatch.setattr(recorder, "KEYFRAME_EXITS", 20)
    monkeypatch.setattr(writer, "one_cpu", lambda: False)
    monkeypatch.setattr(writer, "BACKLOG_MAX", 64 << 10)
    monkeypatch.setattr(writer.Writer, "_write", slow)
    config = Options(["multiboot", "-m", "2M"]).config
    assert config is not None
    record(config, tmp_path / "s.pvm", "multiboot", memory=False)
    with Recording.open(str(tmp_path / "s.pvm")) as recording:
        assert recording.count >= 60
        assert max(later - earlier for earlier, later in pairwise(recording.keyframes)) <= 20  # time asks for some between
    assert max(waiting) < 1 << 20


def test_an_instruction_of_several_exits(tmp_path: Path) -> None:
    """A read-modify-write of a device's memory: registers are final only behind its second exit."""
    code = bytes.fromhex("8105 000000f0 01000000") + POWER_OFF  # add dword [0xf0000000], 1: nobody is there
    path = tmp_path / "s.pvm"
    watched = Recorder(str(path), "rmw", [])
    with flat(code, tmp_path) as (machine, _):
        watched.attach(machine)
        witness = Witness(machine, watched, memory=True)
        reason = machine.run(LIMIT)
    watched.close(reason)
    with Recording.open(str(path)) as recording:
        kinds = [(exits.thaw(each.frozen).number, bool(each.flags & format.INSIDE)) for each in recording.exits()]
        assert kinds == [(uapi.KVM_EXIT_MMIO, True), (uapi.KVM_EXIT_MMIO, False), (uapi.KVM_EXIT_IO, False)]
        compare(recording, witness, memory=True)
        player = Player(recording)
        player.step()
        assert player.inside
        player.step()
        assert not player.inside


def test_a_reset_is_another_machine_in_the_same_recording(tmp_path: Path) -> None:
    code = bytes.fromhex("c70500002000 efbeadde b0fe e664 ebfe")  # store at 0x200000; keyboard controller: reset
    path = tmp_path / "s.pvm"
    watched = Recorder(str(path), "reset", [])
    for _ in range(2):
        with flat(code, tmp_path) as (machine, _):
            watched.attach(machine)
            reason = machine.run(LIMIT)
            assert reason.kind == events.RESET
    watched.close(reason)
    with Recording.open(str(path)) as recording:
        assert recording.count == 2
        first, second = recording.state(0).memory, recording.state(1).memory
        assert recording.state(2).memory.read(0x20_0000, 4) == bytes.fromhex("efbeadde")
        assert first.read(0x20_0000, 4) == second.read(0x20_0000, 4) == bytes(4)
        assert second.read(0x10_0000, len(code)) == code


def test_a_disk_that_is_full_ends_the_run_in_one_line(tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    ended = features.run_pyvmm("record", "hello", "-o", "/dev/full", timeout=LIMIT)
    lines = ended.stderr.decode().splitlines()
    assert [line for line in lines if "cannot write the recording /dev/full: No space left on device" in line], lines
    assert not [line for line in lines if "Traceback" in line]


def test_the_command_and_its_replay(tmp_path: Path) -> None:
    path = str(tmp_path / "s.pvm")
    ended = features.run_pyvmm("record", "hello", "-o", path, timeout=LIMIT)
    assert ended.returncode == 0 and b"Hello, world!" in ended.stdout and b"pyvmm replay" in ended.stderr
    shown = features.run_pyvmm("replay", path, "--batch", "-ex", "step 2", "-ex", "explain", "-ex", "stepi", timeout=LIMIT)
    assert b"wrote 0x48 'H' to COM1 THR" in shown.stdout
    assert shown.returncode == 1 and b"a recording has exits only" in shown.stdout + shown.stderr


def test_a_recording_from_inside_the_sandbox(tmp_path: Path) -> None:
    if features.run_pyvmm("run", "hello", "-sandbox", "on", timeout=LIMIT).returncode:
        pytest.skip("this host cannot lock a process up")
    path = str(tmp_path / "s.pvm")
    ended = features.run_pyvmm("record", "hello", "-sandbox", "on", "-o", path, timeout=LIMIT)
    assert ended.returncode == 0, ended.stderr
    with Recording.open(path) as recording:
        assert recording.note == "" and recording.state(recording.count).memory.read(0x7C00, 2) != bytes(2)


@pytest.mark.parametrize("small", [True, False])
def test_keyframes_of_several_vcpus(small: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stops the others; they wait for their turn, or are in the guest, or halted."""
    monkeypatch.setattr(recorder, "KEYFRAME_EXITS", 3)
    monkeypatch.setattr(recorder, "PATIENCE", 0)
    if not small:
        monkeypatch.setattr(ram, "SMALL_PAGES", 1)
    config = Options(["smp", "-m", "2M", "-no-reboot"]).config
    assert config is not None
    for _ in range(5):
        witness, reason, _ = record(config, tmp_path / "s.pvm", "smp", memory=False)
        assert reason.kind == events.POWEROFF
        with Recording.open(str(tmp_path / "s.pvm")) as recording:
            assert len(recording.keyframes) > 20
            compare(recording, witness, memory=False)
            assert any(set(recording.keyframe(index).vcpus) == {0, 1, 2, 3} for index in range(len(recording.keyframes)))


@pytest.mark.parametrize("small", [True, False])
def test_two_vcpus_that_exit_all_the_time(small: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each counts in memory and writes to a port, 100 times: behind exit n memory has counted n, one more if the other is in between."""
    again = bytes.fromhex("f0ff05 00002000 e680 49")  # lock inc [2 MiB]; out 0x80, al; dec ecx
    done = bytes.fromhex("f0ff05 08002000 833d 08002000 02 72f7")  # lock inc [2 MiB + 8]; wait: cmp [2 MiB + 8], 2; jb wait
    code = b"\xb9\x64\0\0\0" + again + b"\x75" + bytes([256 - len(again) - 2]) + done + POWER_OFF  # mov ecx, 100; jnz again
    if not small:
        monkeypatch.setattr(ram, "SMALL_PAGES", 1)
        monkeypatch.setattr(recorder, "KEYFRAME_EXITS", 2)
        monkeypatch.setattr(recorder, "PATIENCE", 0)
    path = tmp_path / "s.pvm"
    watched = Recorder(str(path), "two", [])
    with flat(code, tmp_path, smp=2) as (machine, _):
        first, second = machine.vcpus
        second.set_sregs(first.get_sregs())
        second.set_regs(first.get_regs())
        second.set_mp_state(first.get_mp_state())
        watched.attach(machine)
        reason = machine.run(LIMIT)
    watched.close(reason)
    assert reason.kind == events.POWEROFF
    with Recording.open(str(path)) as recording:
        assert recording.count >= 200 and {entry.vcpu for entry in recording.exits()} == {0, 1}
        moments = range(200) if small else [number for number in recording.keyframes if number < 200]
        for number in moments:
            state = recording.state(number)
            assert state.memory.exit == number
            assert state.memory.unpack("<I", 0x20_0000)[0] - number in (0, 1), f"exit {number}"
        behind = {entry.regs[128:136] for entry in recording.exits() if exits.thaw(entry.frozen).fields["port"] == 0x80}
        assert len(behind) == 1  # all of them behind the OUT
