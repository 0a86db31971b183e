"""Linux bzImage (Documentation/arch/x86/boot.rst): the 64-bit entry, or the 32-bit one.

``linux`` takes the 64-bit entry at load address + 0x200 where the kernel has one (protocol 2.12, XLF_KERNEL_64), else
the 32-bit entry at the load address; ``linux32`` always takes the latter. The real-mode part of the file is not run.
"""

from __future__ import annotations

from pyvmm import layout
from pyvmm.boot import bootparams
from pyvmm.boot.bootparams import get, put
from pyvmm.boot.cpu import IDENTITY_MAP_END, long_mode, protected_mode
from pyvmm.boot.image import encode_cmdline
from pyvmm.boot.initrd import place_initrd
from pyvmm.boot.plan import BootPlan, ram_text
from pyvmm.boot.tables import command_line
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.boot.image import Image
    from pyvmm.boot.plan import Placement
    from pyvmm.config import Config

SECTOR = 512
OLDEST = 0x202  # the first with cmd_line_ptr, which the 32-bit protocol needs
DEFAULT_LOAD = layout.ONE_MIB
DEFAULT_INITRD_MAX = 0x37FF_FFFF  # before 2.03
DEFAULT_CMDLINE = 255  # before 2.06
ENTRY_64 = 0x200


class Header(Record):
    """What the loader takes from a setup header. Addresses and sizes in bytes; fields newer than the file's protocol
    version hold the values boot.rst gives for their absence."""

    version: int
    payload: int  # file offset of the protected-mode part
    end: int  # file offset behind the setup header
    loadflags: int
    xloadflags: int
    relocatable: bool
    alignment: int
    pref_address: int
    init_size: int
    initrd_addr_max: int
    cmdline_size: int

    @property
    def has_entry64(self) -> bool:
        """Whether the kernel can be entered in long mode."""
        return bool(self.xloadflags & bootparams.XLF_KERNEL_64)


def parse(image: Image) -> Header:
    """Reads and checks the setup header.

    Raises:
        ImageError: no bzImage, too old, truncated, or with impossible values.
    """
    data = image.data
    if len(data) < 0x230 or data[0x202:0x206] != bootparams.MAGIC or get(data, "boot_flag") != 0xAA55:
        raise image.error('not a bzImage: no "HdrS" at 0x202 with 0xaa55 at 0x1fe')
    version = get(data, "version")
    if version < OLDEST:
        raise image.error(f"boot protocol {version_text(version)} is too old: pyvmm needs 2.02 (Linux 2.4) or newer")

    def field(name: str, absent: int) -> int:
        return get(data, name) if version >= bootparams.SETUP_HEADER[name][2] else absent

    header = Header(
        version=version,
        payload=((get(data, "setup_sects") or 4) + 1) * SECTOR,
        end=0x202 + (get(data, "jump") >> 8),
        loadflags=get(data, "loadflags"),
        xloadflags=field("xloadflags", 0),
        relocatable=bool(field("relocatable_kernel", 0)),
        alignment=field("kernel_alignment", 0) or 1,
        pref_address=field("pref_address", DEFAULT_LOAD),
        init_size=field("init_size", 0),
        initrd_addr_max=field("initrd_addr_max", 0) or DEFAULT_INITRD_MAX,
        cmdline_size=field("cmdline_size", 0) or DEFAULT_CMDLINE,
    )
    if not header.loadflags & bootparams.LOADED_HIGH:
        raise image.error("this is a zImage (loaded low, Linux before 2.6): build a bzImage")
    if header.payload >= len(data):
        raise image.error(f"truncated: the kernel should begin at file offset {header.payload:#x}, the file ends at {len(data):#x}")
    if header.end > min(len(data), bootparams.HEADER_END_MAX):
        raise image.error(f"the setup header claims to end at {header.end:#x}, which is behind its room: the file is damaged")
    if header.alignment & (header.alignment - 1):
        raise image.error(f"kernel_alignment {header.alignment:#x} is no power of two: the file is damaged")
    return header


def version_text(version: int) -> str:
    """A protocol version as boot.rst writes it: 0x20c -> "2.12"."""
    return f"{version >> 8}.{version & 0xFF:02}"


def plan(image: Image, config: Config, fmt: str, rule: str, place: Placement) -> BootPlan:
    """A plan for a bzImage.

    Raises:
        ImageError: damaged, or kernel or initrd do not fit.
        ConfigError: the command line is longer than the kernel takes.
    """
    header = parse(image)
    load, end = place_kernel(image, config, header, place)
    initrd = place_initrd(config, place, max(end, layout.ONE_MIB), header.initrd_addr_max)
    page = bytearray(bootparams.SIZE)
    page[bootparams.HEADER : header.end] = image.data[bootparams.HEADER : header.end]
    bootparams.fill(page, config, initrd)
    put(page, "code32_start", load)
    put(page, "loadflags", header.loadflags & ~bootparams.KEEP_SEGMENTS & ~bootparams.KASLR_FLAG)
    place.write("boot_params", layout.BOOT_PARAMS, bytes(page))
    place.write("command line", layout.BOOT_CMDLINE, encode_cmdline(command_line(config), header.cmdline_size))
    wide = fmt == "linux" and header.has_entry64
    notes = [
        f"protocol {version_text(header.version)}, loadflags {header.loadflags:#x}, xloadflags {header.xloadflags:#x}",
        f"kernel   file {header.payload:#x}+{len(image) - header.payload:#x} -> phys {load:#x}, needs RAM to {end:#x}",
        f"limits   initrd below {header.initrd_addr_max + 1:#x}, command line {header.cmdline_size} bytes",
    ]
    if initrd[1]:
        notes.append(f"initrd   {initrd[0]:#x}..{sum(initrd):#x}")
    if fmt == "linux" and not wide:
        notes.append("note     this kernel has no 64-bit entry: started in 32-bit mode")
    if wide:
        entry = load + ENTRY_64
        state = long_mode(entry, rsi=layout.BOOT_PARAMS)
    else:
        entry = load
        state = protected_mode(entry, rsi=layout.BOOT_PARAMS)  # EBP, EDI, EBX are 0, as the 32-bit protocol wants
    return BootPlan(
        format="linux" if wide else "linux32",
        rule=rule,
        mode="long" if wide else "protected",
        entry=entry,
        writes=place.writes,
        zero=place.zeros,
        state=state,
        notes=notes,
    )


def place_kernel(image: Image, config: Config, header: Header, place: Placement) -> tuple[int, int]:
    """Places the protected-mode part; returns (load address, end of all the kernel needs until it reads the e820 map).

    boot.rst, "init_size": a relocatable kernel runs at its load address rounded up to kernel_alignment, but not below
    pref_address; any other at pref_address. There it wants init_size bytes. (KASLR looks for its place in the e820 map
    and spares the initrd by itself.)

    Raises:
        ImageError: this does not fit in low RAM.
    """
    load = DEFAULT_LOAD
    if header.relocatable:
        load = -(-max(header.pref_address, DEFAULT_LOAD) // header.alignment) * header.alignment
    runs_at = max(load, header.pref_address)
    payload = image.data[header.payload :]
    end = max(load + len(payload), runs_at + header.init_size)
    top = min(config.memory, layout.LOW_RAM_END, IDENTITY_MAP_END)
    if end > top:
        need = -(-end // layout.MIB)
        if need > layout.LOW_RAM_END // layout.MIB:
            raise image.error(f"the kernel wants memory up to {end:#x}, more than there is below 4 GiB: the file is damaged")
        raise image.error(f"the kernel needs {need} MiB of RAM to start, the guest has {ram_text(config.memory)}: raise -m")
    place.write("kernel", load, payload)
    place.claim("kernel's start-up memory", load + len(payload), end - load - len(payload))
    return load, end
