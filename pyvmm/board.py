"""The board: which devices there are, on which ports and lines. The wiring half of ``machine``, in one readable function."""

from __future__ import annotations

from time import time_ns

from pyvmm import layout
from pyvmm.coalesce import CoalescedRing, CoalescedSerial
from pyvmm.devices.acpi_pm import LENGTH as PM_LENGTH
from pyvmm.devices.acpi_pm import AcpiPm
from pyvmm.devices.debug_ports import DebugCon, DebugExit
from pyvmm.devices.fw_cfg import LENGTH as FW_CFG_LENGTH
from pyvmm.devices.fw_cfg import FwCfg
from pyvmm.devices.i8042 import I8042
from pyvmm.devices.pci.bus import PciBus
from pyvmm.devices.pci.host import HostBridge
from pyvmm.devices.rtc import Rtc
from pyvmm.devices.serial import Serial
from pyvmm.devices.system_ports import BochsShutdown, EmptyIde, KeyboardReset, PostPort, ResetControl, SystemPortA
from pyvmm.errors import ConfigError, KvmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.backends.console import Console
    from pyvmm.bus import Mapping
    from pyvmm.config import DeviceConfig
    from pyvmm.machine import Machine

_CARDS = ("virtio-", "e1000")  # how names begin that are cards.py's


def populate(machine: Machine, consoles: list[Console], debugcon: Console | None) -> None:
    """Puts every device of ``machine.config`` on its buses and lines.

    Raises:
        ConfigError: a ``-device`` has a bad option, or two devices want the same ports.
    """
    config, lines, stop, loop, clock = machine.config, machine.lines, machine.request_stop, machine.loop, machine.clock
    firmware = _firmware(machine)

    def port(base: int, length: int, device: Any, width: int = 4) -> Mapping:
        machine.devices[device.name] = device
        return machine.ports.add(base, length, device, width)

    if config.coalesce:
        machine.coalesced = CoalescedRing(machine)
        machine.at_end.append(machine.coalesced.stop)
    for index, console in enumerate(consoles):
        if config.serials[index].kind == "none":
            continue
        serial = Serial(f"serial{index}", lines.source(layout.SERIAL_IRQS[index]), console.write)
        mapping = port(layout.SERIAL_PORTS[index], 8, serial, width=1)
        console.attach(loop, serial)
        if index == 0 and machine.coalesced is not None:
            CoalescedSerial(machine.coalesced, mapping, serial)
    pm = AcpiPm(lines.source(layout.IRQ_SCI), stop, clock, clock.make_timer, machine.suspend, machine.wake)
    port(firmware.PORT_PM if firmware else layout.PORT_ACPI_PM, PM_LENGTH, pm)
    rtc = Rtc(lines.source(layout.IRQ_RTC), time_ns, clock, clock.make_timer, config.memory, config.smp, pm.rtc_alarm)
    port(layout.PORT_CMOS, 2, rtc, width=1)
    if firmware is None or firmware.KEYBOARD:
        keyboard = I8042(lines.source(layout.IRQ_KEYBOARD), stop)
        port(layout.PORT_I8042_DATA, 1, keyboard, width=1)
        machine.ports.add(layout.PORT_I8042_COMMAND, 1, keyboard.command_port, width=1)
    else:
        port(layout.PORT_I8042_COMMAND, 1, KeyboardReset(stop), width=1)
    if firmware and firmware.IDE:
        for number, (base, control) in enumerate(layout.PORTS_IDE):
            channel = EmptyIde(f"ide{number}")
            port(base, 8, channel)
            machine.ports.add(control, 1, channel, width=1)
    port(layout.PORT_POST, 1, PostPort(), width=1)
    port(layout.PORT_SYSTEM_A, 1, SystemPortA(stop), width=1)
    ram = [(region.gpa, region.size) for region in machine.memory.regions] + [(machine.plan.kernel_pages, 4 * layout.PAGE)]
    pci = machine.pci = PciBus(machine.ports, machine.mmio, ResetControl(stop), lambda line: lines.source(layout.PCI_IRQS[line]), ram)
    port(layout.PORT_PCI_CONFIG, 8, pci)
    for function, slot, number in firmware.bridges() if firmware else [(HostBridge(), 0, 0)]:
        pci.plug(function, slot, number)
    port(layout.PORT_BOCHS_SHUTDOWN, 1, BochsShutdown(stop), width=1)
    fw_cfg = FwCfg(machine.memory, config.smp)
    port(layout.PORT_FW_CFG, FW_CFG_LENGTH, fw_cfg, width=8)
    if any(drive.interface == "pflash" for drive in config.drives):
        from pyvmm.pflash import Chips

        machine.own(Chips(machine))
    if firmware:
        fw_cfg.items.update(firmware.items(config))
        for register, value in firmware.cmos(config).items():
            rtc.state.ram[register] = value
    if debugcon is not None:
        debugcon.attach(loop)
        port(layout.PORT_DEBUGCON, 1, DebugCon(debugcon.write), width=1)
        port(layout.PORT_DEBUGCON_BIOS, 1, DebugCon(debugcon.write, "debugcon-bios"), width=1)
    for device in config.devices:
        if not device.name.startswith((*_CARDS, "virtconsole")):
            _optional(machine, device)
    if any(device.name.startswith(_CARDS) for device in config.devices):
        from pyvmm.cards import Cards

        machine.cards = machine.own(Cards(machine))
    pci.assign()
    if firmware:
        pci.hold_lines()
        for name, data in firmware.files(config, machine.cards.slots if machine.cards else []).items():
            fw_cfg.add_file(name, data)
        firmware.follow(fw_cfg, pci, config)


def _firmware(machine: Machine) -> Any:
    """The module for machines that start with one; None for others, which need not load it."""
    if machine.config.boot.fmt != "bios":
        return None
    from pyvmm.boot import firmware, uefi

    return uefi if machine.plan.format in (uefi.FORMAT, uefi.OTHER) else firmware


def _optional(machine: Machine, device: DeviceConfig) -> None:
    """One ``-device``."""
    if device.name == "isa-debug-exit":
        _known(device, "iobase", "iosize")
        base, size = _integer(device, "iobase", 0x501), _integer(device, "iosize", 2)
        if size not in (1, 2, 4):
            raise ConfigError(f"-device isa-debug-exit,iosize={size:#x}: 1, 2 or 4 bytes")
        debug_exit = DebugExit(machine.request_stop)
        try:
            machine.ports.add(base, size, debug_exit, width=size)
        except ConfigError as error:
            raise ConfigError(f"-device {error}: give another iobase, such as 0xf4 or 0x501") from None
        machine.devices[debug_exit.name] = debug_exit
    elif device.name == "pc-testdev":
        _known(device)
        try:
            _add_testdev(machine)
        except ConfigError as error:
            raise ConfigError(f"-device pc-testdev: {error}: leave one of the two out") from None
    elif device.name == "pci-testdev":
        _known(device)
        _add_pci_testdev(machine)
    else:
        raise ConfigError(f"-device {device.name}: not known")


def _add_pci_testdev(machine: Machine) -> None:
    """pci-testdev: writes to a BAR, with and without a doorbell, for kvm-unit-tests to time."""
    from pyvmm.devices.pci.testdev import PciTestdev

    def bind(fd: int, address: int, length: int, match: int | None, on_ports: bool, on: bool) -> None:
        try:
            machine.vm.ioeventfd(fd, address, length, match, on_ports, deassign=not on)
        except KvmError:
            pass  # the kernel has no more room: these writes are exits

    card = PciTestdev(bind)
    machine.pci.plug(card)
    machine.at_end.append(card.close)


def _add_testdev(machine: Machine) -> None:
    """pc-testdev: the latches, page flush, interrupt lines and I/O memory that kvm-unit-tests drive."""
    from pyvmm.devices import pc_testdev as testdev

    sources = [machine.lines.source(gsi) for gsi in range(testdev.IRQ_LINES)]
    bytewise = testdev.Latch()
    bytewise.name = "testdev-latch-bytes"
    for base, length, width, device in (
        (testdev.PORT_LATCH, testdev.LATCH_LENGTH, 4, testdev.Latch()),
        (testdev.PORT_FLUSH, 4, 4, testdev.PageFlush(machine.memory.flush_page)),
        (testdev.PORT_LATCH_BYTES, testdev.LATCH_LENGTH, 1, bytewise),
        (testdev.PORT_IRQ_LINES, testdev.IRQ_LINES, 1, testdev.IrqPorts(lambda gsi, level: sources[gsi].set(level))),
    ):
        machine.ports.add(base, length, device, width)
        machine.devices[device.name] = device
    memory = testdev.IoMemory()
    machine.mmio.add(layout.TESTDEV_IOMEM, testdev.MEMORY_LENGTH, memory)
    machine.devices[memory.name] = memory


def _known(device: DeviceConfig, *keys: str) -> None:
    for key, _ in device.options:
        if key not in keys:
            raise ConfigError(f"-device {device.name}: option '{key}' is not known; there are: {', '.join(keys) or 'none'}")


def _integer(device: DeviceConfig, key: str, default: int) -> int:
    text = device.get(key, str(default))
    try:
        return int(text, 0)
    except ValueError:
        raise ConfigError(f"-device {device.name}: {key}={text} is not a number: write for example {key}=0xf4") from None
