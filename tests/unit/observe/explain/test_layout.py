"""A machine's buses as plain data, from parts that need no KVM."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from pyvmm.bus import Bus
from pyvmm.devices.i8042 import I8042
from pyvmm.devices.pci.bus import PciBus
from pyvmm.devices.pci.host import HostBridge
from pyvmm.devices.pci.testdev import PciTestdev
from pyvmm.devices.serial import Serial
from pyvmm.devices.system_ports import ResetControl
from pyvmm.devices.virtio.pci import VirtioPci
from pyvmm.devices.virtio.rng import VirtioRng
from pyvmm.layout import MIB
from pyvmm.memory import GuestMemory
from pyvmm.observe.explain.layout import Layout, kernel_range, plain, states
from tests.support.fakes import FakeLine, FakeTime, StopSink
from tests.support.ring import FakeLoop


def machine() -> Any:
    ports, mmio, memory = Bus("pio", 0x1_0000), Bus("mmio", 1 << 64), GuestMemory(MIB)
    pci = PciBus(ports, mmio, ResetControl(StopSink()), lambda line: FakeLine(), [(0, MIB)])
    serial, keyboard = Serial("serial0", FakeLine(), lambda data: None), I8042(FakeLine(), StopSink())
    time = FakeTime()
    card = VirtioPci(VirtioRng("rng0", FakeLoop(), time.clock, time.make_timer), memory, lambda address, data: lambda: None)
    ports.add(0x3F8, 8, serial, 1)
    ports.add(0x64, 1, keyboard.command_port, 1)
    ports.add(0xCF8, 8, pci, 4)
    pci.plug(HostBridge(), 0)
    pci.plug(card)
    pci.plug(PciTestdev(lambda *_: None))
    pci.assign()
    devices = {"serial0": serial, "i8042": keyboard, "pci": pci, "rng0": card.device, "rng0-core": card.core, "rng0-card": card}
    return SimpleNamespace(ports=ports, mmio=mmio, memory=memory, pci=pci, devices=devices)


def test_windows_functions_and_memory() -> None:
    found = Layout.of(machine())
    serial = found.find("pio", 0x3FF)
    assert serial is not None
    assert (serial.device, serial.state, serial.width) == ("serial0", "serial0", 1)
    assert serial.tables == ((0, "pyvmm.devices.serial_regs:REGISTERS"),)
    command = found.find("pio", 0x64)
    assert command is not None and (command.device, command.state) == ("i8042-command", "i8042")
    assert found.find("pio", 0x400) is None
    assert found.functions[0].name == "host-bridge"
    assert (found.functions[8].name, found.functions[8].vendor, found.functions[8].device) == ("rng0", 0x1AF4, 0x1044)
    assert found.functions[8].state == "rng0-card" and found.functions[0].state == "host-bridge"
    assert found.ram == [(0, MIB)] and found.is_ram(MIB - 1) and not found.is_ram(MIB)


def test_bars_have_their_function_and_the_core_s_state() -> None:
    windows = {window.device: window for window in Layout.of(machine()).mmio}
    bar = windows["rng0-bar4"]
    assert (bar.bar, bar.state, bar.tables) == (("rng0", 4), "rng0-core", ((0, "pyvmm.devices.virtio.pci_regs:REGISTERS"),))
    assert windows["rng0-msix"].bar == ("rng0", 1)


def test_states_are_copies() -> None:
    live = machine()
    before = states(live)
    live.ports.write(0x3FB, 1, 0x83)
    live.pci.functions[8].write_config(4, 2, 7)
    after = states(live)
    assert (before["serial0"]["lcr"], after["serial0"]["lcr"]) == (0, 0x83)
    assert (before["rng0-card"]["config"][4], after["rng0-card"]["config"][4]) == (2, 7)
    assert "host-bridge" in after


def test_a_layout_is_plain_data() -> None:
    found = Layout.of(machine())
    made = plain(found)
    assert Layout.from_plain(made) == found
    assert Layout.from_plain(json.loads(json.dumps(made))) == found
    assert made["functions"][0]["name"] == "host-bridge"
    assert made["ports"][0]["base"] == 0x64


def test_what_the_kernel_answers() -> None:
    assert getattr(kernel_range("pio", 0x21), "who", "") == "the master 8259A interrupt controller"
    assert getattr(kernel_range("mmio", 0xFEE0_00B0), "who", "") == "the local APIC"
    assert kernel_range("mmio", 0xFEC0_0100) is None
    assert kernel_range("pio", 0x3F8) is None


@pytest.mark.parametrize("data", [{}, {"ports": 5}, {"ports": [{"base": 1}], "mmio": [], "functions": {}, "ram": []}])
def test_what_is_no_layout(data: dict[str, Any]) -> None:
    with pytest.raises((AttributeError, KeyError, TypeError, ValueError)):
        Layout.from_plain(data)
