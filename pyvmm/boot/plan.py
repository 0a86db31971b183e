"""BootPlan: what a guest image asks for, as plain data; and Placement, which refuses plans that cannot work."""

from __future__ import annotations

from pyvmm.errors import ImageError
from pyvmm.layout import IDENTITY_MAP, ram_regions
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.boot.cpu import CpuState

    Data = bytes | memoryview


class BootPlan(Record):
    """Memory contents and CPU state that start a guest.

    Fields:
        format: "flat16", "flat32", "flat64", "elf32", "elf64", "multiboot", "pvh", "linux", "linux32", "vmlinux", "bios", "uefi" or "rom".
        rule: one line: by which rule the format was recognised.
        mode: "real", "protected" or "long".
        entry: linear address of the first instruction.
        writes: (gpa, bytes or memoryview), all inside RAM, none overlapping another.
        zero: (gpa, length) that must read zero (bss). RAM is zero on the first boot; a reboot has to clear them.
        state: what the boot vCPU starts with.
        notes: lines for ``pyvmm inspect``.
        bios: the guest may rely on what a BIOS leaves: the PIT ticks (its vectors in memory are among ``writes``).
        rom: what stands at the end of the first 4 GiB, read-only for the guest.
        kernel_pages: where the four pages are that KVM wants on Intel: one for an identity map, three for a TSS.
    """

    format: str
    rule: str
    mode: str
    entry: int
    writes: list[tuple[int, Data]]
    zero: list[tuple[int, int]]
    state: CpuState
    notes: list[str]
    bios: bool = False
    rom: Data = b""
    kernel_pages: int = IDENTITY_MAP


class Placement:
    """Collects who wants which guest memory; ``check`` refuses what lies outside RAM or overlaps.

    Args:
        memory: bytes of guest RAM.
        subject: the image's path, put before every message.
    """

    def __init__(self, memory: int, subject: str) -> None:
        self.memory = memory
        self.subject = subject
        self.writes: list[tuple[int, Data]] = []
        self.zeros: list[tuple[int, int]] = []
        self._claims: list[tuple[int, int, int, str]] = []  # (gpa, end, order of arrival, what)

    def write(self, what: str, gpa: int, data: Data) -> None:
        """Bytes to be there. ``what`` names them in messages: "segment 0", "GDT"."""
        self.claim(what, gpa, len(data))
        if data:
            self.writes.append((gpa, data))

    def zero(self, what: str, gpa: int, length: int) -> None:
        """A range that must read zero."""
        self.claim(what, gpa, length)
        if length:
            self.zeros.append((gpa, length))

    def claim(self, what: str, gpa: int, length: int) -> None:
        """A range that nothing else may use, whatever it holds.

        Raises:
            ImageError: it is not inside one region of RAM.
        """
        end = gpa + length
        if not any(start <= gpa and end <= start + size for start, size in ram_regions(self.memory)):
            raise ImageError(
                f"{self.subject}: {what} at {gpa:#x}..{end:#x} is outside the {ram_text(self.memory)} of guest RAM: raise -m or move it"
            )
        if length:
            self._claims.append((gpa, end, len(self._claims), what))

    def check(self) -> None:
        """Raises ImageError when two claims overlap."""
        claims = sorted(self._claims)
        for low, high in zip(claims, claims[1:], strict=False):
            if high[0] < low[1]:
                # the image comes before boot structures and tables
                (gpa, end, _, what), (other_gpa, other_end, _, other) = sorted((low, high), key=lambda claim: claim[2])
                raise ImageError(
                    f"{self.subject}: {what} at {gpa:#x}..{end:#x} overlaps {other} at {other_gpa:#x}..{other_end:#x}: "
                    "load or link the image elsewhere"
                )


def ram_text(size: int) -> str:
    """A number of bytes for people: "128 MiB", "1025 KiB"."""
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if size and not size % unit:
            return f"{size // unit} {name}"
    return f"{size} bytes"
