"""An uncompressed Linux kernel (vmlinux, ELF64) by the 64-bit boot protocol (boot.rst): RSI = boot_params.

The file has no setup header, so one is made up. e_entry is physical: Linux links startup_64 at phys_startup_64.
"""

from __future__ import annotations

from pyvmm import layout
from pyvmm.boot import bootparams, elf
from pyvmm.boot.bootparams import put
from pyvmm.boot.cpu import IDENTITY_MAP_END, long_mode
from pyvmm.boot.image import encode_cmdline
from pyvmm.boot.initrd import place_initrd
from pyvmm.boot.plan import BootPlan
from pyvmm.boot.tables import command_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.boot.image import Image
    from pyvmm.boot.plan import Placement
    from pyvmm.config import Config

VERSION = 0x20F  # of the protocol spoken here
INITRD_MAX = 0x7FFF_FFFF
CMDLINE_SIZE = 2047  # COMMAND_LINE_SIZE - 1 of x86 kernels


def plan(image: Image, config: Config, fmt: str, rule: str, place: Placement) -> BootPlan:
    """A plan for a vmlinux.

    Raises:
        ImageError: no ELF64, or kernel or initrd do not fit. ConfigError: the command line is too long.
    """
    parsed = elf.parse(image)
    if parsed.bits != 64:
        raise image.error("--format vmlinux takes a 64-bit kernel; boot a 32-bit one by its bzImage")
    end = elf.load(image, parsed, place)
    entry = elf.check_entry(image, parsed, parsed.entry, IDENTITY_MAP_END)
    initrd = place_initrd(config, place, max(end, layout.ONE_MIB), INITRD_MAX)
    page = bytearray(bootparams.SIZE)
    page[0x202:0x206] = bootparams.MAGIC
    put(page, "boot_flag", 0xAA55)
    put(page, "version", VERSION)
    put(page, "loadflags", bootparams.LOADED_HIGH)
    put(page, "xloadflags", bootparams.XLF_KERNEL_64)
    put(page, "initrd_addr_max", INITRD_MAX)
    put(page, "cmdline_size", CMDLINE_SIZE)
    bootparams.fill(page, config, initrd)
    place.write("boot_params", layout.BOOT_PARAMS, bytes(page))
    place.write("command line", layout.BOOT_CMDLINE, encode_cmdline(command_line(config), CMDLINE_SIZE))
    return BootPlan(
        format=fmt,
        rule=rule,
        mode="long",
        entry=entry,
        writes=place.writes,
        zero=place.zeros,
        state=long_mode(entry, rsi=layout.BOOT_PARAMS),
        notes=elf.segment_lines(parsed) + ([f"initrd   {initrd[0]:#x}..{sum(initrd):#x}"] if initrd[1] else []),
    )
