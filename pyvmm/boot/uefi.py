"""Firmware for a PC with Intel's chip set in place of a guest: an OVMF image, or a U-Boot's, from its reset vector, and what it finds.

The image stands at the end of the first 4 GiB, read-only. UEFI firmware is known by the firmware volume that it begins with (PI 1.7
Vol. 3, 3.2.1: "_FVH" at offset 40), other by being larger than a BIOS. OVMF unpacks itself into RAM, takes memory from etc/e820 and
the ACPI tables by the same script as a BIOS, and gives the PCI cards new addresses, to which the DSDT is fitted when it asks for that
script, as QEMU does. U-Boot does much the same, and takes IDE for granted.
"""

from __future__ import annotations

from pyvmm import layout
from pyvmm.boot import firmware
from pyvmm.boot.cpu import real_mode
from pyvmm.boot.plan import BootPlan, ram_text
from pyvmm.devices.pci import piix
from pyvmm.devices.pci.host import HostBridge
from pyvmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm.boot.dsdt import Windows
    from pyvmm.boot.image import Image
    from pyvmm.config import Config, DeviceConfig
    from pyvmm.devices.fw_cfg import FwCfg
    from pyvmm.devices.pci.bus import PciBus
    from pyvmm.devices.pci.function import PciFunction

FORMAT, OTHER = "uefi", "rom"
VOLUME, VOLUME_AT = b"_FVH", 40
ROM_MAX = layout.HIGH_RAM - layout.UEFI_ROM
RESET_VECTOR = 16  # bytes before the end
MEMORY_MIN = 64 * layout.MIB
PORT_PM = layout.PORT_ACPI_PM_UEFI
KEYBOARD = False  # no controller: see KeyboardReset
IDE = True  # two channels, with nothing on them

TWO_GIB = 2 * layout.GIB
ENDS = {b"scsi": b"/disk@0,0", b"ethernet": b"/ethernet-phy@0"}  # of a device path in bootorder: what it compares in full

items, cmos = firmware.items, firmware.cmos


def fits(image: Image) -> bool:
    """Whether it is for this machine: it begins as firmware for UEFI does, or is larger than a BIOS."""
    return is_uefi(image) or len(image) > firmware.ROM_MAX


def is_uefi(image: Image) -> bool:
    """Whether it begins as firmware for UEFI does."""
    return bytes(image.data[VOLUME_AT : VOLUME_AT + len(VOLUME)]) == VOLUME


def plan(image: Image, config: Config, rule: str) -> BootPlan:
    """Everything at its place for the first fetch.

    Raises:
        ImageError: this is no firmware for the place. ConfigError: too little memory.
    """
    size, uefi = len(image), is_uefi(image)
    if size % (layout.PAGE if uefi else firmware.UNIT) or size > ROM_MAX:
        if uefi:
            raise image.error(f"{ram_text(size)} are no UEFI firmware: it has a multiple of 4 KiB, at most {ram_text(ROM_MAX)}")
        raise image.error(
            f"{ram_text(size)} are no PC firmware: a BIOS has a multiple of 64 KiB, at most {ram_text(firmware.ROM_MAX)} (Debian's package "
            f"seabios: /usr/share/seabios/bios-256k.bin), other firmware at most {ram_text(ROM_MAX)}"
        )
    if len(set(image.data[-RESET_VECTOR:])) == 1:
        if uefi:
            raise image.error("holds a UEFI firmware's variables and no code: give the image of the code (OVMF_CODE_4M.fd, OVMF.fd)")
        raise image.error("is no PC firmware: nothing is at its end, where a processor begins")
    if config.memory < MEMORY_MIN:
        raise ConfigError(f"{ram_text(config.memory)} of guest memory are too little for this firmware: give -m at least 64M")
    state = real_mode(0)
    state.cs = state.cs.replace(base=firmware.RESET_BASE, selector=firmware.RESET_SEGMENT)
    state.cr0, state.rip = firmware.CR0_AT_RESET, firmware.RESET_OFFSET
    return BootPlan(
        format=FORMAT if uefi else OTHER,
        rule=rule,
        mode="real",
        entry=firmware.RESET_BASE + firmware.RESET_OFFSET,
        writes=[],
        zero=[],
        state=state,
        notes=[f"ROM      {layout.HIGH_RAM - size:#x}..{layout.HIGH_RAM:#x}"],
        rom=b"" if any(drive.interface == "pflash" and not drive.unit and not drive.readonly for drive in config.drives) else image.data,
        kernel_pages=layout.UEFI_IDENTITY_MAP,
    )


def bridges() -> list[tuple[PciFunction, int, int]]:
    """What is on the PCI bus before any card: functions with their slots and numbers."""
    return [
        (HostBridge(firmware.SUBSYSTEM, (piix.INTEL, piix.HOST_BRIDGE)), 0, 0),
        (piix.IsaBridge(), piix.SLOT, 0),
        (piix.PowerManagement(PORT_PM), piix.SLOT, piix.PM_FUNCTION),
    ]


def files(config: Config, cards: Sequence[tuple[DeviceConfig, int]] = ()) -> dict[str, bytes]:
    """Named items of fw_cfg.

    Args:
        cards: those on PCI, with their slots.

    Raises:
        ConfigError: a ``bootindex`` is none, or two have the same; a ``romfile``.
    """
    for card, _ in cards:
        if card.get("romfile"):
            raise ConfigError(f"-device {card.name},romfile={card.get('romfile')}: UEFI firmware does not get it: leave romfile= out")
    found = firmware.files(config.replace(boot=config.boot.replace(fmt=FORMAT)), cards, layout.UEFI_IDENTITY_MAP)
    if "bootorder" in found:
        lines = found["bootorder"].rstrip(b"\n\0").split(b"\n")
        found["bootorder"] = b"".join(line + ENDS[line.rpartition(b"/")[2].partition(b"@")[0]] + b"\n" for line in lines) + b"\0"
    return found


def follow(fw_cfg: FwCfg, pci: PciBus, config: Config) -> None:
    """Has the DSDT name the windows where the firmware has put the cards, which it does before it reads how to place tables."""
    uefi = config.replace(boot=config.boot.replace(fmt=FORMAT))
    loader = fw_cfg.files.get(firmware.LOADER)

    def selected(key: int) -> None:
        if key == loader:
            for name, data in firmware.acpi_files(uefi, windows(pci, config.memory)).items():
                fw_cfg.add_item(fw_cfg.files[name], data)

    fw_cfg.selected = selected


def windows(pci: PciBus, memory: int) -> Windows:
    """OVMF's window below 4 GiB begins at 2 GiB or above RAM; where the one above is, goes by the processor's address lines."""
    low = layout.LOW_RAM_END if memory > TWO_GIB else TWO_GIB
    first, end = layout.pci_memory_64(memory)
    bars = [(bar.address(function.state.config), bar.size) for function in pci.functions.values() for bar in function.bars]
    high = [(base, base + size) for base, size in bars if base >= layout.HIGH_RAM]
    if high:
        first = min(base for base, _ in high) & -layout.GIB
        end = min(max(first + layout.PCI_MEMORY_64_LENGTH, -(-max(end for _, end in high) // layout.GIB) * layout.GIB), 1 << 64)
    return (low, layout.IOAPIC), (first, end)
