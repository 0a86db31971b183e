"""Flat images: bytes that start running at an address, without any header.

    flat16  real mode, a boot sector: loaded at 0x7C00, CS:IP 0000:7C00, DL = 0x80 (first hard disk), SS:SP 0000:7C00.
            There is no BIOS: int 10h and friends lead nowhere.
    flat32  protected mode, flat 4 GiB segments: loaded at 1 MiB.
    flat64  long mode, the first 4 GiB identity-mapped: loaded at 1 MiB.

With only 1 MiB of RAM flat32 and flat64 start at 64 KiB. The command line (if any) is at layout.BOOT_CMDLINE, its
address in RSI; else RSI is 0.
"""

from __future__ import annotations

from pyvmm import layout
from pyvmm.boot.cpu import long_mode, protected_mode, real_mode
from pyvmm.boot.image import encode_cmdline
from pyvmm.boot.plan import BootPlan
from pyvmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.boot.image import Image
    from pyvmm.boot.plan import Placement
    from pyvmm.config import Config

BOOT_DRIVE = 0x80
SMALL_RAM_ADDRESS = 0x1_0000

MODES = {"flat16": "real", "flat32": "protected", "flat64": "long"}


def plan(image: Image, config: Config, fmt: str, rule: str, place: Placement) -> BootPlan:
    """A plan for ``fmt`` (flat16, flat32, flat64).

    Raises:
        ImageError: the image does not fit where it should go.
        ConfigError: address or entry make no sense for the mode.
    """
    boot = config.boot
    if boot.initrd:
        raise ConfigError(f"a {fmt} image takes no initrd: remove -initrd")
    address = default_address(fmt, config.memory) if boot.address is None else boot.address
    entry = address if boot.entry is None else boot.entry
    limit = layout.ONE_MIB if fmt == "flat16" else 1 << 32
    if not 0 <= address < limit:
        raise ConfigError(f"load address {address:#x} is not below {limit:#x}, which is what a {fmt} image can reach")
    if fmt == "flat16" and address + len(image) > limit:
        raise image.error(
            f"{len(image)} bytes from {address:#x} do not fit below 1 MiB; a disk image needs a BIOS to load it: "
            "-bios FILE -drive file=IMAGE,format=raw (docs/firmware.md)"
        )
    place.write("image", address, image.data)
    if not address <= entry < address + len(image):
        raise ConfigError(f"entry {entry:#x} is not inside the image at {address:#x}..{address + len(image):#x}")
    cmdline = layout.BOOT_CMDLINE if boot.cmdline else 0
    if cmdline:
        place.write("command line", cmdline, encode_cmdline(boot.cmdline))
    if fmt == "flat16":
        state = real_mode(entry, rsp=layout.BOOT_SECTOR, rdx=BOOT_DRIVE)
    elif fmt == "flat32":
        state = protected_mode(entry, rsi=cmdline)
    else:
        state = long_mode(entry, rsi=cmdline)
    return BootPlan(
        format=fmt,
        rule=rule,
        mode=MODES[fmt],
        entry=entry,
        writes=place.writes,
        zero=place.zeros,
        state=state,
        notes=[f"load     {address:#x}..{address + len(image):#x}"],
    )


def default_address(fmt: str, memory: int) -> int:
    """Where an image without a given address goes."""
    if fmt == "flat16":
        return layout.BOOT_SECTOR
    return layout.ONE_MIB if memory > layout.ONE_MIB else SMALL_RAM_ADDRESS
