"""The names of all events, made from the devices' register tables, the kernel's exit reasons and the hooks below.

A register's event is PREFIX_REGISTER_read or _write, in lower case: ``serial_lsr_read``, ``virtio_pci_device_status_write``. An access to a
place in a device's range where its table has nothing is PREFIX_gap_read or _write.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from pyvmm.errors import ConfigError
from pyvmm.kvm import uapi
from pyvmm.observe.explain.meanings import meaning
from pyvmm.observe.explain.registers import table

# register table -> what its events begin with
PREFIXES = {
    "pyvmm.devices.serial_regs:REGISTERS": "serial",
    "pyvmm.devices.rtc_regs:REGISTERS": "rtc",
    "pyvmm.devices.rtc_regs:INDEXED": "rtc",
    "pyvmm.devices.i8042_regs:REGISTERS": "i8042",
    "pyvmm.devices.i8042_regs:COMMAND_PORT": "i8042",
    "pyvmm.devices.acpi_pm_regs:REGISTERS": "acpi",
    "pyvmm.devices.flash_regs:REGISTERS": "flash",
    "pyvmm.devices.fw_cfg_regs:REGISTERS": "fw_cfg",
    "pyvmm.devices.system_ports_regs:PORT_A": "system",
    "pyvmm.devices.system_ports_regs:RESET_CONTROL": "system",
    "pyvmm.devices.system_ports_regs:POST": "system",
    "pyvmm.devices.system_ports_regs:BOCHS_SHUTDOWN": "system",
    "pyvmm.devices.system_ports_regs:KEYBOARD_RESET": "i8042",
    "pyvmm.devices.debug_ports_regs:DEBUGCON": "debug",
    "pyvmm.devices.debug_ports_regs:DEBUG_EXIT": "debug",
    "pyvmm.devices.pc_testdev_regs:LATCH": "testdev",
    "pyvmm.devices.pc_testdev_regs:FLUSH": "testdev",
    "pyvmm.devices.pc_testdev_regs:IRQ_LINES": "testdev",
    "pyvmm.devices.pc_testdev_regs:MEMORY": "testdev",
    "pyvmm.devices.pci.bus_regs:REGISTERS": "pci",
    "pyvmm.devices.pci.function_regs:HEADER": "pci_config",
    "pyvmm.devices.pci.msix_regs:ENTRY": "pci_msix",
    "pyvmm.devices.pci.testdev_regs:HEADER": "pci_testdev",
    "pyvmm.devices.virtio.pci_regs:REGISTERS": "virtio_pci",
    "pyvmm.devices.virtio.legacy_regs:REGISTERS": "virtio_legacy",
    "pyvmm.devices.system_ports_regs:EMPTY_IDE": "ide",
    "pyvmm.devices.virtio.mmio_regs:REGISTERS": "virtio_mmio",
    "pyvmm.devices.virtio.blk_regs:REGISTERS": "virtio_blk",
    "pyvmm.devices.virtio.console_regs:REGISTERS": "virtio_console",
    "pyvmm.devices.virtio.net_regs:REGISTERS": "virtio_net",
    "pyvmm.devices.e1000.regs:REGISTERS": "e1000",
    "pyvmm.devices.e1000.regs:IO_REGISTERS": "e1000_io",
}
HEADER = "pyvmm.devices.pci.function_regs:HEADER"
HOOKS = {
    "exit_kicked": "KVM_RUN ended by a signal: somebody wants this vCPU",
    "irq_line": "an interrupt line changed its level",
    "irq_msi": "a message-signalled interrupt was sent, or is pending because the guest masks it",
    "virtio_start": "the driver is ready (DRIVER_OK)",
    "virtio_serve": "a doorbell rang: the device looks at its queue",
    "virtio_interrupt": "the device has used buffers and tells the driver",
    "virtio_broken": "the driver broke the rules: the device wants a reset",
    "virtio_reset": "the driver reset the device",
    "virtio_net_packet": "each step of a packet from descriptor to wire and back (what --trace-net tells)",
    "virtio_blk_io": "a request to the host's file: kind, offset, bytes, time",
    "e1000_packet": "each step of a packet from descriptor to wire and back (what --trace-net tells)",
}
_MOST = 64  # patterns


def catalogue() -> dict[str, str]:
    """Every event and what it says, sorted by name."""
    found = dict(HOOKS)
    for name in uapi.EXIT_NAMES.values():
        found[exit_event(name)] = f"{name}: an exit to user space"
    for source, prefix in PREFIXES.items():
        for register in table(source):
            words = meaning(source, register.name) or register.section
            for letter in register.access:
                found.setdefault(register_event(source, register.name, letter == "w"), f"{register.name}: {words}")
        for access in ("read", "write"):
            found[f"{prefix}_gap_{access}"] = "an access where no register is"
    return dict(sorted(found.items()))


def register_event(source: str, register: str, is_write: bool) -> str:
    """The name of a register's event; "" for "register": the one of gaps. An index, "MTA[3]", does not show."""
    base = "".join(each if each.isalnum() else "_" for each in register.partition("[")[0].lower()).strip("_") or "gap"
    return f"{PREFIXES.get(source, 'device')}_{base}_{'write' if is_write else 'read'}"


def exit_event(name: str) -> str:
    """ "exit_io" for "KVM_EXIT_IO"; "exit_unknown_99" for a reason that has no name."""
    if not name.startswith("KVM_EXIT_") or name.startswith("KVM_EXIT_?"):
        return "exit_unknown_" + "".join(each for each in name if each.isdigit())
    return "exit_" + name.removeprefix("KVM_EXIT_").lower()


class Chosen:
    """Which events are wanted.

    Args:
        patterns: as on the command line: names and shell patterns, separated by commas; one that begins with "-" takes events away again.
        option: what messages call it.

    Raises:
        ConfigError: a pattern matches no event.
    """

    def __init__(self, patterns: list[str], option: str = "--trace") -> None:
        words = [word for pattern in patterns for word in pattern.split(",") if word]
        if not words or len(words) > _MOST:
            raise ConfigError(f"{option}: name events, such as {option} 'serial_*,irq_*': pyvmm list has them all")
        known = catalogue()
        self.names: set[str] = set() if not words[0].startswith("-") else set(known)
        for word in words:
            away, pattern = word.startswith("-"), word.removeprefix("-")
            found = {name for name in known if fnmatchcase(name, pattern)}
            if not found:
                raise ConfigError(f"{option} {word}: no event has such a name: pyvmm list has them all")
            self.names = self.names - found if away else self.names | found

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def any(self, prefix: str) -> bool:
        """Whether an event that begins so is wanted."""
        return any(name.startswith(prefix) for name in self.names)
