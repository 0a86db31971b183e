"""A split virtqueue: descriptor table, available and used ring, and the chains between them (Virtio 1.2, 2.7).

All of it is read from guest memory, which may hold anything: what is shown is bounded, loops are cut, and what lies outside RAM is said.
"""

from __future__ import annotations

import struct

from pyvmm.errors import GuestFault
from pyvmm.observe.picture.svg import WIDTH, Drawing
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.observe.paging import Memory

NEXT, WRITE, INDIRECT = 1, 2, 4  # 2.7.5
_NAMES = ((NEXT, "NEXT"), (WRITE, "WRITE"), (INDIRECT, "INDIRECT"))
RECENT = 8  # slots of a ring that are shown
LONGEST = 16  # descriptors of a chain that are followed
MOST = 32  # descriptors that are shown
SIZE_MAX = 32768  # 2.7
_DESC = struct.Struct("<QIHH")


class Descriptor(Record):
    """One entry of the descriptor table, or of an indirect one."""

    index: int
    address: int
    length: int
    flags: int
    next: int

    @property
    def words(self) -> str:
        """Names of its flags."""
        return " ".join(name for bit, name in _NAMES if self.flags & bit)


class Queue(Record):
    """What a picture shows of a queue.

    Fields:
        name, size: of the queue.
        desc, driver, device: guest physical addresses of table, available and used ring.
        avail_idx, used_idx: where driver and device write next (free-running, 16 bits).
        avail: (slot, head) of the latest entries, oldest first; used: (slot, head, bytes written).
        chains: head -> its descriptors, cut at LONGEST.
        indirect: (index of the descriptor, its table, cut at LONGEST); for the latest chain that has one.
        missing: what lies outside RAM, in words; "" for nothing.
    """

    name: str
    size: int
    desc: int
    driver: int
    device: int
    avail_idx: int = 0
    used_idx: int = 0
    avail: list[tuple[int, int]] = []
    used: list[tuple[int, int, int]] = []
    chains: dict[int, list[Descriptor]] = {}
    indirect: tuple[int, list[Descriptor]] | None = None
    missing: str = ""

    @property
    def waiting(self) -> int:
        """Chains made available and not yet used."""
        return self.avail_idx - self.used_idx & 0xFFFF


def read(name: str, state: dict[str, Any], memory: Memory) -> Queue:
    """A queue as it stands in guest memory. Never raises for anything a guest can do.

    Args:
        name: for the title.
        state: size and the three addresses, as in a virtio device's state.
        memory: the guest's.
    """
    size, desc, driver, device = (int(state.get(key, 0)) for key in ("size", "desc", "driver", "device"))
    queue = Queue(name=name, size=min(max(size, 1), SIZE_MAX), desc=desc, driver=driver, device=device)
    try:
        queue.avail_idx = _word(memory, driver + 2)
        queue.used_idx = _word(memory, device + 2)
        for number in range(min(RECENT, queue.size) - 1, -1, -1):
            slot = (queue.avail_idx - 1 - number & 0xFFFF) % queue.size
            queue.avail.append((slot, _word(memory, driver + 4 + 2 * slot)))
            slot = (queue.used_idx - 1 - number & 0xFFFF) % queue.size
            queue.used.append((slot, *struct.unpack("<II", memory.read(device + 4 + 8 * slot, 8))))
        # before the indices have gone round once, older slots have never been written
        queue.avail = queue.avail[-min(len(queue.avail), queue.avail_idx) :] if queue.avail_idx else []
        queue.used = queue.used[-min(len(queue.used), queue.used_idx) :] if queue.used_idx else []
        for head in dict.fromkeys([head for _, head in reversed(queue.avail)] + [head for _, head, _ in reversed(queue.used)]):
            chain = _chain(memory, desc, head, queue.size)
            if chain and sum(map(len, queue.chains.values())) + len(chain) <= MOST:
                queue.chains[head] = chain
                tail = chain[-1]
                if tail.flags & INDIRECT and queue.indirect is None:
                    queue.indirect = tail.index, _chain(memory, tail.address, 0, min(tail.length // 16, 0xFFFF))
    except GuestFault as fault:
        queue.missing = f"{fault.gpa:#x} is outside guest RAM: a part of the queue cannot be read"
    return queue


def _word(memory: Memory, gpa: int) -> int:
    return int.from_bytes(memory.read(gpa, 2), "little")


def _chain(memory: Memory, table: int, head: int, size: int) -> list[Descriptor]:
    found: list[Descriptor] = []
    index = head
    while index < size and len(found) < LONGEST and all(each.index != index for each in found):
        address, length, flags, following = _DESC.unpack(memory.read(table + 16 * index, 16))
        found.append(Descriptor(index=index, address=address, length=length, flags=flags, next=following))
        if not found[-1].flags & NEXT or found[-1].flags & INDIRECT:
            break
        index = found[-1].next
    return found


# --- drawing -----------------------------------------------------------------------------------------------------------
_ROW = 19.0
_TOP = 104.0
_AVAIL = (16.0, 150.0)  # x, width
_TABLE = (252.0, 396.0)
_USED = (734.0, 150.0)


def draw(queue: Queue) -> str:
    """The picture."""
    drawing = Drawing(f"{queue.name}: a split virtqueue of {queue.size}")
    if queue.missing:
        drawing.text(16, 64, queue.missing, "head red", 100)
        return drawing.finish()
    waits = "the device has answered all" if not queue.waiting else f"{queue.waiting} not answered yet"
    waits += f". Indices run freely; slot = idx mod {queue.size}."
    drawing.text(16, 50, f"available idx {queue.avail_idx}, used idx {queue.used_idx}: {waits}", "note")
    rows = _table(drawing, queue)
    waiting = {head for _, head in queue.avail[max(len(queue.avail) - queue.waiting, 0) :]} if queue.waiting else set()
    x, width = _AVAIL
    drawing.text(x, _TOP - 26, "available ring", "head")
    drawing.text(x, _TOP - 10, f"at {queue.driver:#x}; driver", "small dim")
    y = _TOP
    for slot, head in queue.avail:
        hot = head in waiting
        drawing.box(x, y, width, _ROW, "choice" if hot else "user edge")
        drawing.text(x + 5, y + 13.5, f"[{slot}]", "small dim")
        drawing.text(x + width - 6, y + 13.5, f"head {head}", "small end")
        if head in rows:
            drawing.path(_bend(x + width, y + _ROW / 2, _TABLE[0], rows[head]), "hot" if hot else "arrow")
        y += _ROW
    _next(drawing, x, y, width, queue.avail_idx % queue.size, "the driver's next")
    x, width = _USED
    drawing.text(x, _TOP - 26, "used ring", "head")
    drawing.text(x, _TOP - 10, f"at {queue.device:#x}; device", "small dim")
    y = _TOP
    for slot, head, written in queue.used:
        drawing.box(x, y, width, _ROW, "device edge")
        drawing.text(x + 5, y + 13.5, f"[{slot}]", "small dim")
        drawing.text(x + width - 6, y + 13.5, f"head {head}, {written} B", "small end", 24)
        if head in rows:
            drawing.path(_bend(x, y + _ROW / 2, _TABLE[0] + _TABLE[1], rows[head]), "arrow")
        y += _ROW
    _next(drawing, x, y, width, queue.used_idx % queue.size, "the device's next")
    foot = drawing.bottom + 30
    foot = _indirect(drawing, queue, foot) if queue.indirect else foot
    means = "NEXT: the chain goes on. WRITE: the device writes there, else it reads. Bytes in the used ring: how many it wrote."
    drawing.text(16, foot, means, "note")
    return drawing.finish()


def _next(drawing: Drawing, x: float, y: float, width: float, slot: int, text: str) -> None:
    drawing.box(x, y, width, _ROW, "faint")
    drawing.text(x + 5, y + 13.5, f"[{slot}]", "small dim")
    drawing.text(x + width - 6, y + 13.5, text, "small dim end")


def _bend(x1: float, y1: float, x2: float, y2: float) -> str:
    middle = (x1 + x2) / 2
    return f"M{x1:g} {y1:g}C{middle:g} {y1:g} {middle:g} {y2:g} {x2:g} {y2:g}"


def _table(drawing: Drawing, queue: Queue) -> dict[int, float]:
    """The descriptor table, as far as chains use it; returns the height of each descriptor's middle."""
    x, width = _TABLE
    drawing.text(x, _TOP - 26, "descriptor table", "head")
    drawing.text(x + width, _TOP - 26, f"at {queue.desc:#x}", "small dim end")
    shown = {each.index: each for chain in queue.chains.values() for each in chain}
    y = _TOP
    _titles(drawing, x, y - 10)
    rows: dict[int, float] = {}
    before = -1
    for index in sorted(shown):
        y = _elided(drawing, x, y, width, index - before - 1)
        rows[index] = y + _ROW / 2
        _descriptor(drawing, x, y, width, shown[index])
        y += _ROW
        before = index
    _elided(drawing, x, y, width, queue.size - before - 1)
    for chain in queue.chains.values():
        for one, other in zip(chain, chain[1:], strict=False):
            start, end = rows[one.index], rows[other.index]
            out = x + width - 3 + 12 + min(abs(end - start) / 6, 30)
            drawing.path(f"M{x + width:g} {start + 3:g}C{out:g} {start + 3:g} {out:g} {end - 3:g} {x + width + 1:g} {end - 3:g}", "arrow")
    return rows


def _titles(drawing: Drawing, x: float, y: float) -> None:
    for at, text in ((6, "index"), (52, "address"), (188, "length"), (256, "flags"), (352, "next")):
        drawing.text(x + at, y, text, "small dim")


def _descriptor(drawing: Drawing, x: float, y: float, width: float, each: Descriptor) -> None:
    drawing.box(x, y, width, _ROW, "box")
    told = each.words or "-"
    follows = f"{each.next}" if each.flags & NEXT else ""
    for at, text in ((6, f"{each.index}"), (52, f"{each.address:#x}"), (188, f"{each.length}"), (256, told), (352, follows)):
        drawing.text(x + at, y + 13.5, text, "small")


def _elided(drawing: Drawing, x: float, y: float, width: float, many: int) -> float:
    """A gap of descriptors that no chain shown uses."""
    if many <= 0:
        return y
    drawing.box(x, y, width, _ROW, "faint edge")
    drawing.text(x + width / 2, y + 13.5, f"\u22ee {many} more", "small dim middle")
    return y + _ROW


def _indirect(drawing: Drawing, queue: Queue, y: float) -> float:
    assert queue.indirect is not None
    index, table = queue.indirect
    x, width = _TABLE
    drawing.text(x, y, f"indirect table of descriptor {index}", "head")
    y += 24
    _titles(drawing, x, y - 8)
    for each in table:
        _descriptor(drawing, x, y, width, each)
        y += _ROW
    return y + 26


assert _USED[0] + _USED[1] <= WIDTH
