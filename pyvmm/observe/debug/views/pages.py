"""A page walk as a picture: each level's index, where its entry is, what is in it, bit by bit."""

from __future__ import annotations

from pyvmm.observe.flags import ENTRY, bits
from pyvmm.observe.paging import CR0_PG, CR4_LA57, CR4_PAE, EFER_LMA, walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.observe.debug.session import Session
    from pyvmm.observe.debug.style import Style

_NX = 1 << 63
_LARGE = 1 << 7
_FRAME = 0x000F_FFFF_FFFF_F000
_WORDS = {
    "RW": "writable", "US": "user", "PWT": "write-through", "PCD": "uncached", "A": "accessed", "D": "dirty", "G": "global", "PAT": "PAT",
}  # fmt: skip
_SIZES = {"PD": {False: "4 MiB", True: "2 MiB"}, "PDPT": {True: "1 GiB"}}


def page_walk(session: Session, linear: int, style: Style) -> tuple[list[str], dict[str, Any]]:
    """(lines, the same as data)."""
    subject, vcpu = session.subject, session.vcpu
    sregs = subject.sregs(vcpu)
    found = walk(subject.memory, sregs, linear)
    wide = bool(sregs.efer & EFER_LMA or sregs.cr4 & CR4_PAE)
    lines = [f"linear {linear:#x}{session.place(linear)}"]
    data: dict[str, Any] = {"linear": linear, "gpa": found.gpa, "fault": found.fault, "depth": 0, "levels": []}
    if sregs.cr0 & CR0_PG:
        data["depth"] = (5 if sregs.cr4 & CR4_LA57 else 4) if sregs.efer & EFER_LMA else 3 if wide else 2
        kind = f"{data['depth']} levels" if sregs.efer & EFER_LMA else "PAE, 3 levels" if wide else "32 bits, 2 levels"
        lines.append(f"paging  {kind}, from cr3 {sregs.cr3:#x}")
    else:
        lines.append("paging  is off: linear addresses are physical")
    for table, at, entry in found.steps:
        digits = 16 if wide else 8
        index = _index(linear, table, data["depth"])
        names = _bits(table, entry, wide)
        data["levels"].append({"table": table, "index": index, "gpa": at, "entry": entry, "bits": names})
        head = f"{style.name(f'{table:<5}')} [{index:>4}]  at {at:#x}"
        lines.append(f"  {head}: {entry:0{digits}x}  {' '.join(names) or 'nothing'}")
        lines.append(f"{'':>16}{style.label(_words(table, entry, names, wide))}")
    if found.gpa is None:
        lines.append(style.error(f"=> page fault: it {found.fault}"))
    else:
        allowed = f"{'user and kernel' if found.user else 'kernel only'}, {'read and write' if found.writable else 'read only'}"
        here = "" if subject.memory.contains(found.gpa, 1) else ": no RAM there" + _who(session, found.gpa)
        rights = f" ({allowed})" if found.steps else ""
        lines.append(style.here(f"=> guest physical {found.gpa:#x}{rights}{here}"))
        data["user"], data["writable"] = found.user, found.writable
    return lines, data


def _index(linear: int, table: str, depth: int) -> int:
    """The part of a linear address that chooses an entry of a table (SDM 3A, 4.3 to 4.5); PAE's PDPT has four."""
    each = 10 if depth == 2 else 9
    return linear >> 12 + each * ("PT", "PD", "PDPT", "PML4", "PML5").index(table) & (1 << each) - 1


def _who(session: Session, gpa: int) -> str:
    from pyvmm.observe.debug.conditions import MMIO

    who = session.places.at(MMIO, gpa)
    return f", but {who}" if who else ""


def _bits(table: str, entry: int, wide: bool) -> list[str]:
    names = bits(entry & 0x1FF, ENTRY).split()
    if table == "PT":
        names = ["PAT" if name == "PS" else name for name in names]
    return names + (["NX"] if wide and entry & _NX else [])


def _words(table: str, entry: int, names: list[str], wide: bool) -> str:
    if "P" not in names:
        return "not present"
    words = [_WORDS[name] for name in names if name in _WORDS]
    words += ["no execution"] if "NX" in names else []
    words += [] if "RW" in names else ["read-only"]
    words += [] if "US" in names else ["kernel only"]
    large = table in _SIZES and entry & _LARGE
    target = entry & (_FRAME if wide else 0xFFFF_F000)
    leads = f"a page of {_SIZES[table].get(wide, '4 MiB')}" if large else "a page of 4 KiB" if table == "PT" else "the next table"
    return f"{leads} at {target:#x}: {', '.join(words)}"
