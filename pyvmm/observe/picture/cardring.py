"""A descriptor ring of an 82540EM: whose each descriptor is, by head and tail (8254x SDM 3.2 and 3.3).

The circle shows the whole ring, however long; the table beside it the descriptors around head and tail.
"""

from __future__ import annotations

import struct
from math import cos, pi, sin

from pyvmm.devices.e1000 import constants as card
from pyvmm.errors import GuestFault
from pyvmm.observe.picture.svg import Drawing
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.observe.paging import Memory

REGISTERS = {
    "tx": (card.TDBAL, card.TDBAH, card.TDLEN, card.TDH, card.TDT),
    "rx": (card.RDBAL, card.RDBAH, card.RDLEN, card.RDH, card.RDT),
}
_NAMES = {"tx": ("TDBAL/H", "TDLEN", "TDH", "TDT"), "rx": ("RDBAL/H", "RDLEN", "RDH", "RDT")}
_BEFORE, _SHOWN = 3, 16  # descriptors shown before the head, and in all
_TICKS = 64  # up to so many are told apart in the circle
_STATUS = {"tx": ((0, "DD"), (1, "EC"), (2, "LC")), "rx": ((0, "DD"), (1, "EOP"), (2, "IXSM"), (3, "VP"), (5, "TCPCS"), (6, "IPCS"))}
_COMMANDS = ((0, "EOP"), (1, "IFCS"), (3, "RS"), (5, "DEXT"), (6, "VLE"), (7, "IDE"))


class Slot(Record):
    """One descriptor.

    Fields:
        index: in the ring.
        address, length: of its buffer.
        text: its bits by name.
        card: it is the card's; else the driver's.
    """

    index: int
    address: int
    length: int
    text: str
    card: bool


class Ring(Record):
    """What a picture shows.

    Fields:
        name: the card's.
        side: "tx" or "rx".
        base, size, head, tail: size in descriptors.
        slots: those around the head, in the ring's order.
        missing: why there are none, or "".
    """

    name: str
    side: str
    base: int
    size: int
    head: int
    tail: int
    slots: list[Slot] = []
    missing: str = ""

    def of_card(self, index: int) -> bool:
        """From head up to, not including, tail (3.2.6, 3.4): equal means that the card has none."""
        return (index - self.head) % self.size < (self.tail - self.head) % self.size


def read(name: str, side: str, regs: dict[Any, Any], memory: Memory) -> Ring:
    """A ring as registers and guest memory have it. Never raises for anything a guest can do.

    Args:
        name: for the title.
        side: "tx" or "rx".
        regs: the card's registers by offset.
        memory: the guest's.
    """
    low, high, length, head, tail = (int(regs.get(at, 0)) for at in REGISTERS[side])
    ring = Ring(name=name, side=side, base=low | high << 32, size=length // 16, head=head, tail=tail)
    if not ring.size:
        ring.missing = f"the ring has no descriptors: {_NAMES[side][1]} is 0"
    elif head >= ring.size or tail >= ring.size:
        ring.missing = f"head {head} or tail {tail} is not one of {ring.size} descriptors"
    else:
        try:
            many = min(_SHOWN, ring.size)
            first = ring.head - _BEFORE if ring.size > _SHOWN else 0
            ring.slots = [_slot(ring, (first + number) % ring.size, memory) for number in range(many)]
        except GuestFault as fault:
            ring.missing = f"{fault.gpa:#x} is outside guest RAM: the ring cannot be read"
    return ring


def _slot(ring: Ring, index: int, memory: Memory) -> Slot:
    address, word = struct.unpack("<QQ", memory.read(ring.base + 16 * index, 16))
    status = " ".join(name for bit, name in _STATUS[ring.side] if word >> 32 + bit & 1)
    length, text = word & 0xFFFF, status
    if ring.side == "tx":
        command = word >> 24 & 0xFF
        text = " ".join(name for bit, name in _COMMANDS if command >> bit & 1)
        if command & 0x20:  # 3.3.5 to 3.3.7: extended descriptors say their kind in bits 23:20
            kind = word >> 20 & 0xF
            length = word & 0xFFFFF
            text = ("context " if not kind else "data " if kind == 1 else "") + text
        text += f" | {status}" if status else ""
    return Slot(index=index, address=address, length=length, text=text or "-", card=ring.of_card(index))


# --- drawing -----------------------------------------------------------------------------------------------------------
_CENTRE, _OUTER, _INNER = (176.0, 252.0), 116.0, 82.0
_LIST = (404.0, 480.0)  # x, width
_ROW = 19.0


def draw(ring: Ring) -> str:
    """The picture."""
    does = "transmit" if ring.side == "tx" else "receive"
    drawing = Drawing(f"{ring.name}: the {does} ring, {ring.size} descriptors")
    base, length, head, tail = _NAMES[ring.side]
    facts = f"{base} = {ring.base:#x}, {length} = {16 * ring.size}, {head} = {ring.head}, {tail} = {ring.tail}"
    drawing.text(16, 52, facts, "dim")
    if ring.missing:
        drawing.text(16, 84, ring.missing, "head red", 100)
        return drawing.finish()
    owned = (ring.tail - ring.head) % ring.size
    _circle(drawing, ring, owned)
    _list(drawing, ring)
    y = max(drawing.bottom, _CENTRE[1] + _OUTER + 40) + 26
    what = "sends these frames" if ring.side == "tx" else "may fill these buffers"
    drawing.box(16, y - 11, 14, 14, "choice")
    drawing.text(38, y, f"the card's, from head up to tail: it {what} and moves the head", "note")
    drawing.box(16, y + 9, 14, 14, "device edge")
    drawing.text(38, y + 20, "the driver's: it prepares descriptors and moves the tail. Head = tail: the card has none.", "note")
    return drawing.finish()


def _circle(drawing: Drawing, ring: Ring, owned: int) -> None:
    def corner(index: float, radius: float) -> tuple[float, float]:
        angle = 2 * pi * index / ring.size - pi / 2
        return _CENTRE[0] + radius * cos(angle), _CENTRE[1] + radius * sin(angle)

    def sector(first: float, last: float, look: str) -> None:
        big = int(last - first > ring.size / 2)
        (a, b), (c, d), (e, f), (g, h) = corner(first, _OUTER), corner(last, _OUTER), corner(last, _INNER), corner(first, _INNER)
        outer = f"M{a:.2f} {b:.2f}A{_OUTER:g} {_OUTER:g} 0 {big} 1 {c:.2f} {d:.2f}"
        drawing.path(f"{outer}L{e:.2f} {f:.2f}A{_INNER:g} {_INNER:g} 0 {big} 0 {g:.2f} {h:.2f}z", look)

    if ring.size <= _TICKS:
        for index in range(ring.size):
            sector(index, index + 1 if ring.size > 1 else 0.999, "choice" if ring.of_card(index) else "device edge")
            if ring.size <= 32:
                x, y = corner(index + 0.5, (_OUTER + _INNER) / 2)
                drawing.text(x, y + 4, str(index), "small middle")
    else:
        parts = ((ring.head, ring.head + owned, "choice"), (ring.head + owned, ring.head + ring.size, "device edge"))
        for first, last, look in parts:
            middle = (first + last) / 2
            if last > first:  # in two halves: an arc from a point to itself is none
                sector(first, middle, look)
                sector(middle, last, look)
    same = ring.head == ring.tail
    for name, index, inside in (("head", ring.head, False), ("tail", ring.tail, True)):
        start, end = (_INNER - 34, _INNER - 3) if inside else (_OUTER + 26, _OUTER + 3)
        (a, b), (c, d) = corner(index + 0.5, start), corner(index + 0.5, end)
        drawing.line(round(a, 2), round(b, 2), round(c, 2), round(d, 2), "arrow" if inside else "hot")
        a, b = corner(index + 0.5, start + (-14 if inside else 16))
        drawing.text(a, b + 4, name, "head middle" if inside else "head red middle")
    x, y = _CENTRE
    drawing.text(x, y - 2 if not same else y + 12, f"{owned} of {ring.size}", "head middle")
    drawing.text(x, y + 14 if not same else y + 28, "are the card's", "small dim middle")


def _list(drawing: Drawing, ring: Ring) -> None:
    x, width = _LIST
    y = 104.0
    for at, text in ((6, "index"), (58, "buffer at"), (200, "bytes"), (258, "bits")):
        drawing.text(x + at, y - 8, text, "small dim")
    for slot in ring.slots:
        drawing.box(x, y, width, _ROW, "choice" if slot.card else "device edge")
        for at, text in ((6, f"{slot.index}"), (58, f"{slot.address:#x}"), (200, f"{slot.length}"), (258, slot.text)):
            drawing.text(x + at, y + 13.5, text, "small", 34)
        if slot.index == ring.head:
            drawing.text(x - 44, y + 13.5, "head", "small red")
            drawing.line(x - 16, y + 10, x - 2, y + 10, "hot")
        if slot.index == ring.tail:
            left = x - 44 - (34 if slot.index == ring.head else 0)
            drawing.text(left, y + 13.5, "tail", "small")
            if slot.index != ring.head:
                drawing.line(x - 16, y + 10, x - 2, y + 10, "arrow")
        y += _ROW
    rest = ring.size - len(ring.slots)
    if rest:
        drawing.text(x + width / 2, y + 15, f"\u22ee {rest} more", "small dim middle")
