"""``--trace`` on real guests: what is told, by whom, and that nothing stays behind."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pyvmm import layout
from pyvmm.config import BootConfig, Config, SerialConfig
from pyvmm.layout import MIB
from pyvmm.machine import Machine
from pyvmm.observe.trace.events import Chosen
from pyvmm.observe.trace.tracer import Tracer, line
from tests.support import vm
from tests.support.process import COMMAND, PATIENCE, ROOT

pytestmark = pytest.mark.kvm
# flat32: 'A' to COM1; read LSR; read RTC seconds; power off
PROGRAM = bytes.fromhex("66baf803 b041 ee 66bafd03 ec b000 e670 e471") + vm.POWER_OFF + vm.HANG


def pyvmm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT, check=False)


def traced(tmp_path: Path, *patterns: str) -> list[str]:
    lines: list[str] = []
    with vm.flat(PROGRAM, tmp_path) as (machine, console):
        handlers = [(mapping, mapping.read, mapping.write) for bus in (machine.ports, machine.mmio) for mapping in bus.mappings]
        own = {name: set(vars(device)) for name, device in machine.devices.items() if hasattr(device, "__dict__")}
        tracer = Tracer(Chosen(list(patterns)), lambda *event: lines.append(line(*event)))
        tracer.attach(machine)
        vm.run(machine)
        assert console.output == b"A"
        assert [(mapping, mapping.read, mapping.write) for mapping, _, _ in handlers] == handlers
        assert {name: set(vars(device)) for name, device in machine.devices.items() if hasattr(device, "__dict__")} == own
    return [each.split(None, 2)[2] for each in lines if each.split()[1] == "vcpu0"]


def test_registers_in_order(tmp_path: Path) -> None:
    found = traced(tmp_path, "serial_*", "rtc_*", "acpi_*")
    assert [line.split()[0] for line in found] == [
        "serial_thr_write", "serial_lsr_read", "rtc_index_write", "rtc_data_read", "rtc_sec_read", "acpi_pm1_cnt_write",
    ]  # fmt: skip
    assert found[0].endswith("COM1 THR=41 'A'")
    assert "SLP_EN" in found[-1]


def test_exits_and_registers_nest(tmp_path: Path) -> None:
    found = traced(tmp_path, "serial_thr_write,exit_io")
    assert found[0].split(None, 1) == ["exit_io", "out to port 0x3f8, 1 byte: 0x41"]
    assert found[1].split(None, 1)[0] == "serial_thr_write"


def test_only_what_was_asked_for(tmp_path: Path) -> None:
    assert [line.split()[0] for line in traced(tmp_path, "serial_lsr_read")] == ["serial_lsr_read"]


def test_times_ascend(tmp_path: Path) -> None:
    lines: list[str] = []
    with vm.flat(PROGRAM, tmp_path) as (machine, _):
        Tracer(Chosen(["*"]), lambda *event: lines.append(line(*event))).attach(machine)
        vm.run(machine)
    times = [float(each.split()[0]) for each in lines]
    assert times == sorted(times)
    assert len(times) > 10


def test_a_disk_from_doorbell_to_interrupt(tmp_path: Path) -> None:
    done = pyvmm("run", "virtio-blk", "--trace", f"virtio_*,pci_config_*,irq_msi,file={tmp_path / 'trace'}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = [line.split(None, 3) for line in (tmp_path / "trace").read_text().splitlines()]
    events = [line[2] for line in lines]
    told = " ".join(line[2] for line in lines if line[1] == "thread")
    assert "virtio_serve virtio_blk_io virtio_interrupt irq_msi" in told
    assert "pci_config_vid_read" in events
    assert "virtio_pci_queue_enable_write" in events  # the BAR was nowhere when tracing began


@pytest.mark.parametrize(("guest", "event"), [("e1000", "e1000_packet"), ("virtio-net", "virtio_net_packet")])
def test_cards_tell_of_packets(guest: str, event: str) -> None:
    done = pyvmm("run", guest, "--trace", f"{event},irq_line")
    assert done.returncode == 0
    assert event in done.stderr
    assert "tx" in done.stderr
    assert "exit_io" not in done.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("run hello --trace nothing_*", "--trace nothing_*: no event"),
        ("run hello --trace", "--trace: a value must follow"),
        ("run hello --trace file=/tmp/x", "--trace: name events"),
        ("run hello --trace serial_*,file=/nowhere/x", "file=/nowhere/x: No such file"),
        ("list nothing*", "no event is called nothing*"),
    ],
)
def test_mistakes_are_one_line(line: str, message: str) -> None:
    done = pyvmm(*line.split())
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert message in done.stderr


def test_list() -> None:
    everything = pyvmm("list").stdout.splitlines()
    some = pyvmm("list", "serial_lsr*", "irq_msi").stdout.splitlines()
    assert len(everything) > 300
    assert [line.split()[0] for line in some] == ["irq_msi", "serial_lsr_read"]


def test_any_access_of_any_guest_can_be_told(tmp_path: Path) -> None:
    """Tracing must not fail where the device does not: random accesses to all there is, all events on."""
    import random

    from pyvmm.backends.block.backend import open_drive
    from pyvmm.config import DeviceConfig, DriveConfig

    names = "virtio-rng-pci virtio-net-pci e1000 virtio-serial-pci virtio-rng-device isa-debug-exit pci-testdev"
    disk = DeviceConfig(name="virtio-blk-pci", options=(("drive", "d"),))
    devices = (disk, *(DeviceConfig(name=name) for name in names.split()))
    drive = DriveConfig(file="", format="scratch", size=1 << 20, id="d")
    (tmp_path / "guest.bin").write_bytes(vm.HANG)
    config = Config(
        boot=BootConfig(kernel=str(tmp_path / "guest.bin"), fmt="flat32"), memory=16 * MIB, serials=(SerialConfig(kind="null"),),
        devices=devices, drives=(drive,),
    )  # fmt: skip
    lines: list[str] = []
    dice = random.Random(11)
    backend = open_drive(drive)
    with Machine(config, [vm.Collector()], drives={"d": backend}) as machine:
        Tracer(Chosen(["*"]), lambda *event: lines.append(line(*event))).attach(machine)
        with machine.lock:
            for _ in range(4000):
                bus = dice.choice((machine.ports, machine.mmio))
                mapping = dice.choice(bus.mappings)
                address = mapping.base + dice.choice((dice.randrange(mapping.length), dice.randrange(min(mapping.length, 64))))
                size = dice.choice((1, 2, 4) if bus is machine.ports else (1, 2, 4, 8))
                if dice.random() < 0.6:
                    bus.read(address, size)
                elif not address <= layout.PORT_PCI_CONFIG + 7 < address + 64:  # BARs stay, so that there is something to hit
                    bus.write(address, size, dice.choice((0, 0xFF, dice.randrange(1 << 8 * size))) & (1 << 8 * size) - 1)
    backend.close()
    assert len(lines) > 3000
    assert all(each.isprintable() for each in lines)
