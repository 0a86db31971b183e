"""The register tables name what the devices have: checked against the devices themselves."""

from __future__ import annotations

import importlib
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pyvmm.devices.acpi_pm import LENGTH as PM_LENGTH
from pyvmm.devices.acpi_pm import AcpiPm
from pyvmm.devices.debug_ports import DebugCon, DebugExit
from pyvmm.devices.device import Register, decode
from pyvmm.devices.fw_cfg import LENGTH as FW_CFG_LENGTH
from pyvmm.devices.fw_cfg import FwCfg
from pyvmm.devices.i8042 import I8042
from pyvmm.devices.pc_testdev import IRQ_LINES, MEMORY_LENGTH, IoMemory, IrqPorts, Latch, PageFlush
from pyvmm.devices.pci.function import PciFunction
from pyvmm.devices.pci.function_regs import HEADER
from pyvmm.devices.pci.msix import MsiX
from pyvmm.devices.rtc import Rtc
from pyvmm.devices.rtc_regs import INDEXED
from pyvmm.devices.serial import Serial
from pyvmm.devices.serial_regs import REGISTERS as SERIAL_REGISTERS
from pyvmm.devices.system_ports import BochsShutdown, KeyboardReset, PostPort, ResetControl, SystemPortA
from pyvmm.layout import MIB
from pyvmm.memory import GuestMemory
from tests.support.fakes import ByteSink, FakeLine, FakeTime, StopSink
from tests.support.pci import Messages
from tests.support.pci import World as PciWorld

if TYPE_CHECKING:
    from pyvmm.devices.device import Device

TIME = FakeTime()
KEYBOARD = I8042(FakeLine(), StopSink())
DEVICES: list[tuple[Device, int]] = [
    (Serial("serial0", FakeLine(), ByteSink()), 8),
    (Rtc(FakeLine(), TIME.wall_clock, TIME.clock, TIME.make_timer), 2),
    (KEYBOARD, 1),
    (KEYBOARD.command_port, 1),
    (SystemPortA(StopSink()), 1),
    (ResetControl(StopSink()), 1),
    (PostPort(), 1),
    (BochsShutdown(StopSink()), 1),
    (KeyboardReset(StopSink()), 1),
    (DebugCon(ByteSink()), 1),
    (DebugExit(StopSink()), 4),
    (AcpiPm(FakeLine(), StopSink(), TIME.clock, TIME.make_timer), PM_LENGTH),
    (FwCfg(GuestMemory(MIB), 1), FW_CFG_LENGTH),
    (Latch(), 4),
    (PageFlush(lambda gpa: None), 4),
    (IrqPorts(lambda gsi, level: None), IRQ_LINES),
    (IoMemory(), MEMORY_LENGTH),
    (PciWorld().bus, 8),
    (MsiX(PciFunction("card", 0, 0, 0), 1, Messages()), 16),
]


def table(device: Device) -> tuple[Register, ...]:
    module, _, name = str(getattr(device, "registers")).partition(":")  # noqa: B009 (not part of the Device contract)
    registers = getattr(importlib.import_module(module), name)
    assert isinstance(registers, tuple)
    return registers


@pytest.mark.parametrize(("device", "length"), DEVICES, ids=lambda value: getattr(value, "name", None))
def test_tables_fit_their_mapping_and_tell_the_reset_values(device: Device, length: int) -> None:
    device.reset()
    registers = table(device)
    assert registers
    for register in registers:
        assert register.offset + register.size <= length, register.name
        assert register.section, register.name
        assert all(field.high < 8 * register.size for field in register.fields), register.name
        assert len({field.name for field in register.fields}) == len(register.fields), register.name
        hidden = register.when == "DLAB=1" or register.name == "DATA" or register.size > 8
        if "r" in register.access and not hidden:
            assert device.read(register.offset, register.size) == register.reset, register.name


def test_the_header_table_is_the_header() -> None:
    function = PciFunction("card", 0, 0, 0, pin=0)
    for register in HEADER:
        assert function.read_config(register.offset, register.size) == register.reset, register.name
        assert register.section


def test_divisor_latch_reset_value() -> None:
    serial = Serial("serial0", FakeLine(), ByteSink())
    serial.write(3, 1, 0x80)
    latch = [register for register in SERIAL_REGISTERS if register.when == "DLAB=1"]
    assert [serial.read(register.offset, 1) for register in latch] == [register.reset for register in latch]


def test_clock_registers_behind_the_index() -> None:
    clock = Rtc(FakeLine(), TIME.wall_clock, TIME.clock, TIME.make_timer)
    for name in ("A", "B", "C", "D"):
        (register,) = (register for register in INDEXED if register.name == name)
        clock.write(0, 1, register.offset)
        assert clock.read(1, 1) == register.reset, name


def test_decoding_reads_like_the_data_sheet() -> None:
    lsr = next(register for register in SERIAL_REGISTERS if register.name == "LSR")
    assert decode(lsr, 0x61) == "LSR=61 TEMT THRE DR"


def test_importing_the_devices_imports_no_table_and_nothing_slow() -> None:
    modules = ["serial", "rtc", "i8042", "system_ports", "debug_ports", "acpi_pm", "fw_cfg", "pc_testdev", "pci.bus", "pci.msix"]
    code = "import sys; before = set(sys.modules); " + "; ".join(f"import pyvmm.devices.{name}" for name in modules)
    code += "; print(*sorted(set(sys.modules) - before))"
    # -S: the host's own site configuration may import anything
    loaded = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "pyvmm.devices.serial" in loaded
    slow = {"dataclasses", "typing", "enum", "re", "functools", "collections", "inspect", "pyvmm.devices.device"}
    assert not slow & set(loaded)
    assert not [name for name in loaded if name.endswith("_regs")]
