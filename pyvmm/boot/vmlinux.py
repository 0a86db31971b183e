"""An uncompressed Linux kernel (vmlinux) by the 64-bit boot protocol (boot.rst), or a 32-bit one by the 32-bit protocol:
RSI, ESI = boot_params.

The file has no setup header, so one is made up. e_entry is physical: Linux links startup_64 at phys_startup_64, startup_32 at
phys_startup_32.
"""

from __future__ import annotations

from pyvmm import layout
from pyvmm.boot import bootparams, elf
from pyvmm.boot.bootparams import put
from pyvmm.boot.cpu import IDENTITY_MAP_END, long_mode, protected_mode
from pyvmm.boot.image import encode_cmdline
from pyvmm.boot.initrd import place_initrd
from pyvmm.boot.linux import DEFAULT_INITRD_MAX
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
        ImageError: no ELF file, or kernel or initrd do not fit. ConfigError: the command line is too long.
    """
    parsed = elf.parse(image)
    wide = parsed.bits == 64
    initrd_max = INITRD_MAX if wide else DEFAULT_INITRD_MAX  # a 32-bit kernel's own limit: what its lowmem surely holds
    end = elf.load(image, parsed, place)
    entry = elf.check_entry(image, parsed, parsed.entry, IDENTITY_MAP_END)
    initrd = place_initrd(config, place, max(end, layout.ONE_MIB), initrd_max)
    page = bytearray(bootparams.SIZE)
    page[0x202:0x206] = bootparams.MAGIC
    put(page, "boot_flag", 0xAA55)
    put(page, "version", VERSION)
    put(page, "loadflags", bootparams.LOADED_HIGH)
    put(page, "xloadflags", bootparams.XLF_KERNEL_64 if wide else 0)
    put(page, "initrd_addr_max", initrd_max)
    put(page, "cmdline_size", CMDLINE_SIZE)
    bootparams.fill(page, config, initrd)
    place.write("boot_params", layout.BOOT_PARAMS, bytes(page))
    place.write("command line", layout.BOOT_CMDLINE, encode_cmdline(command_line(config), CMDLINE_SIZE))
    return BootPlan(
        format=fmt,
        rule=rule,
        mode="long" if wide else "protected",
        entry=entry,
        writes=place.writes,
        zero=place.zeros,
        state=(long_mode if wide else protected_mode)(entry, rsi=layout.BOOT_PARAMS),
        notes=elf.segment_lines(parsed) + ([f"initrd   {initrd[0]:#x}..{sum(initrd):#x}"] if initrd[1] else []),
    )
