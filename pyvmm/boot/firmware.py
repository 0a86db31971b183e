"""A PC's firmware in place of a guest: SeaBIOS from its reset vector, as QEMU starts it, and what it finds in fw_cfg.

The image stands at the end of the first 4 GiB, read-only, and once more at the end of the first 1 MiB, in RAM. On a PC that is the
same ROM until the firmware has had the chip set put RAM with a copy there; SeaBIOS knows two chip sets of Intel's for it, and where it
finds neither it takes the copy for made. The first instruction is at 0xFFFFFFF0 (SDM Vol. 3A, 9.1.4). The firmware places the PCI cards,
starts the other processors, makes its own MP table and SMBIOS tables, and puts our ACPI tables where it likes: files say how (QEMU,
hw/acpi/bios-linker-loader.c names the commands).
"""

from __future__ import annotations

from struct import pack

from pyvmm import layout
from pyvmm.boot.acpi import tables_at
from pyvmm.boot.cpu import real_mode
from pyvmm.boot.image import open_image
from pyvmm.boot.plan import BootPlan, Placement, ram_text
from pyvmm.devices.pci.host import HostBridge
from pyvmm.devices.virtio.legacy import DEVICE_IDS
from pyvmm.devices.virtio.pci import DEVICE_BASE
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

FORMAT = "bios"
UNIT = 64 * layout.KIB
ROM_MAX = layout.HIGH_RAM - (layout.TSS + 3 * layout.PAGE)  # 256 KiB: below are the pages KVM wants on Intel
MEMORY_MIN = 4 * layout.MIB  # SeaBIOS unpacks itself above 1 MiB
RESET_SEGMENT, RESET_BASE, RESET_OFFSET = 0xF000, 0xFFFF_0000, 0xFFF0
CR0_AT_RESET = 0x6000_0010  # caches off (CD, NW), ET
SUBSYSTEM = (0x1AF4, 0x1100)  # of the host bridge: how SeaBIOS knows that there is a fw_cfg (its src/fw/paravirt.c)

ALLOCATE, ADD_POINTER, ADD_CHECKSUM = 1, 2, 3  # commands of etc/table-loader
ZONE_HIGH, ZONE_FSEG = 1, 2
COMMAND_SIZE = 128
CARDS = {"e1000": (0x8086, 0x100E, "ethernet"), "virtio-net-pci": (0x1AF4, 0x1041, "ethernet"), "virtio-blk-pci": (0x1AF4, 0x1042, "scsi")}
OPTION_ROM, OPTION_ROM_UNIT, OPTION_ROM_MAX = b"\x55\xaa", 512, 128 * layout.KIB
LOADER, TABLES, RSDP = "etc/table-loader", "etc/acpi/tables", "etc/acpi/rsdp"
CMOS_BOOT_ORDER, CMOS_BOOT_THIRD = 0x3D, 0x38
ORDER = "acdn"  # floppy, disk, CD, network: 1 to 4
KEY_BOOT_MENU, KEY_IRQ0_OVERRIDE = 0x0E, 0x8002
PORT_PM = layout.PORT_ACPI_PM
KEYBOARD = True  # there is a controller for one
IDE = False


def plan(image: Image, config: Config, rule: str) -> BootPlan:
    """Everything at its place for the first fetch.

    Raises:
        ImageError: this is no firmware for the place. ConfigError: an option does not go with one.
    """
    boot = config.boot
    if boot.initrd or boot.cmdline or boot.address is not None or boot.entry is not None:
        raise ConfigError("-initrd, -append, -address and -entry do not go with firmware: it starts what is on a disk")
    from pyvmm.boot import uefi

    if any(drive.interface == "pflash" for drive in config.drives) and not uefi.is_uefi(image):
        raise image.error("is no UEFI firmware, which is what flash is for: give it as -bios")
    if uefi.fits(image):
        return uefi.plan(image, config, rule)
    size = len(image)
    if size % UNIT:
        raise image.error(
            f"{ram_text(size)} are no PC firmware: it has a multiple of 64 KiB "
            "(Debian's package seabios: /usr/share/seabios/bios-256k.bin), or begins with a firmware volume, for UEFI"
        )
    if config.memory < MEMORY_MIN:
        raise ConfigError(f"{ram_text(config.memory)} of guest memory are too little for firmware: give -m at least 4M")
    place = Placement(config.memory, image.path)
    place.write("firmware", layout.ONE_MIB - size, image.data)
    state = real_mode(0)
    state.cs = state.cs.replace(base=RESET_BASE, selector=RESET_SEGMENT)
    state.cr0, state.rip = CR0_AT_RESET, RESET_OFFSET
    return BootPlan(
        format=FORMAT,
        rule=rule,
        mode="real",
        entry=RESET_BASE + RESET_OFFSET,
        writes=place.writes,
        zero=[],
        state=state,
        notes=[f"ROM      {layout.HIGH_RAM - size:#x}..{layout.HIGH_RAM:#x}, and in RAM {layout.ONE_MIB - size:#x}..{layout.ONE_MIB:#x}"],
        rom=image.data,
    )


def items(config: Config) -> dict[int, bytes]:
    """Numbered items of fw_cfg: whether there is a menu; the PIT is on pin 2 of the I/O APIC."""
    return {KEY_BOOT_MENU: bytes((config.boot.menu, 0)), KEY_IRQ0_OVERRIDE: b"\1"}


def cmos(config: Config) -> dict[int, int]:
    """CMOS registers -> what is there: the first two kinds of things to boot and, in the high half of another, the third."""
    kinds = [ORDER.index(letter) + 1 for letter in config.boot.order[:3]] + [0, 0, 0]
    return {CMOS_BOOT_ORDER: kinds[0] | kinds[1] << 4, CMOS_BOOT_THIRD: kinds[2] << 4}


def bridges() -> list[tuple[PciFunction, int, int]]:
    """What is on the PCI bus before any card: functions with their slots and numbers."""
    return [(HostBridge(SUBSYSTEM), 0, 0)]


def files(config: Config, cards: Sequence[tuple[DeviceConfig, int]] = (), kernel_pages: int = layout.IDENTITY_MAP) -> dict[str, bytes]:
    """Named items of fw_cfg: memory, ACPI tables unless there are none, and what the user says of cards.

    Args:
        cards: those on PCI, with their slots.
        kernel_pages: as in the plan.

    Raises:
        ImageError: a ``romfile`` is none. ConfigError: a ``bootindex`` is none, or two have the same.
    """
    ram = [(gpa, size, layout.E820_RAM) for gpa, size in layout.ram_regions(config.memory)]
    ram.append((kernel_pages, 4 * layout.PAGE, layout.E820_RESERVED))
    found = {"etc/e820": b"".join(pack("<QQI", *entry) for entry in ram), **_of_cards(cards)}
    if config.acpi:
        found |= acpi_files(config)
    return found


def acpi_files(config: Config, windows: Windows | None = None) -> dict[str, bytes]:
    """The ACPI tables and the script that places them; as long whatever the PCI windows are."""
    tables = tables_at(config, 0, windows)
    script = [
        _command(ALLOCATE, _name(TABLES), pack("<IB", 64, ZONE_HIGH)),  # 64: the FACS
        _command(ALLOCATE, _name(RSDP), pack("<IB", 16, ZONE_FSEG)),
        *(_command(ADD_POINTER, _name(TABLES), _name(TABLES), pack("<IB", at, size)) for at, size in tables.pointers),
        *(_command(ADD_POINTER, _name(RSDP), _name(TABLES), pack("<IB", at, size)) for at, size in ((16, 4), (24, 8))),
        *(_command(ADD_CHECKSUM, _name(TABLES), pack("<III", at + 9, at, length)) for at, length in tables.summed),
        _command(ADD_CHECKSUM, _name(RSDP), pack("<III", 8, 0, 20)),  # ACPI 1.0's, then all of it
        _command(ADD_CHECKSUM, _name(RSDP), pack("<III", 32, 0, 36)),
    ]
    block, rsdp = bytearray(tables.block), bytearray(tables.rsdp)
    for at, _ in tables.summed:
        block[at + 9] = 0  # SeaBIOS takes the sum from what is there, OVMF writes the sum of all, this byte too: right for 0 alone
    rsdp[8] = rsdp[32] = 0
    return {TABLES: bytes(block), RSDP: bytes(rsdp), LOADER: b"".join(script)}


def _of_cards(cards: Sequence[tuple[DeviceConfig, int]]) -> dict[str, bytes]:
    """Option ROMs, for all cards of a kind and in place of a ROM BAR, and the order of booting, a device path per line."""
    found: dict[str, bytes] = {}
    order: dict[int, str] = {}
    for config, slot in cards:
        if config.name not in CARDS:
            continue
        vendor, device, kind = CARDS[config.name]
        device = DEVICE_IDS[device - DEVICE_BASE] if config.transitional else device
        if config.get("romfile"):
            found[f"pci{vendor:04x},{device:04x}.rom"] = _option_rom(config.get("romfile"))
        if config.get("bootindex"):
            index = config.number("bootindex", 0, 0, (1 << 31) - 1)
            if index in order:
                raise ConfigError(f"-device {config.name},bootindex={index}: another device has this place: give each its own")
            order[index] = f"/pci@i0cf8/{kind}@{slot:x}\n"
    if order:
        found["bootorder"] = "".join(order[index] for index in sorted(order)).encode() + b"\0"
    return found


def _option_rom(path: str) -> bytes:
    image = open_image(path, "option ROM")
    data = bytes(image.data[: OPTION_ROM_MAX + 1])
    if data[:2] != OPTION_ROM or len(data) % OPTION_ROM_UNIT or len(data) > OPTION_ROM_MAX:
        raise image.error("is no option ROM for a BIOS: it begins with 0x55 0xaa and has at most 128 KiB (efi-*.rom are for UEFI)")
    return data


def follow(fw_cfg: FwCfg, pci: PciBus, config: Config) -> None:
    """SeaBIOS keeps to our windows, or to the DSDT's: nothing is to be done."""


def _name(file: str) -> bytes:
    return file.encode().ljust(56, b"\0")


def _command(number: int, *fields: bytes) -> bytes:
    return b"".join((pack("<I", number), *fields)).ljust(COMMAND_SIZE, b"\0")
