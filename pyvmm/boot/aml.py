"""AML: the byte code of ACPI name spaces (ACPI Specification 6.4, chapter 20), one function per term.

Every function returns bytes, so a table body is an expression::

    scope("\\\\_SB", device("COM1", name("_HID", eisa_id("PNP0501")), name("_CRS", resources(io(0x3F8, 8), irq(4)))))

Where a term takes a value, an int or str is encoded as AML integer or string and bytes are taken as AML.
Resource descriptors (chapter 6.4) are plain bytes too; ``resources`` makes the buffer.
"""

from __future__ import annotations

from struct import pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    Value = int | str | bytes

ARG0, ARG1, ARG2, ARG3 = b"\x68", b"\x69", b"\x6a", b"\x6b"
LOCAL0, LOCAL1 = b"\x60", b"\x61"


# --- names and values (20.2.2, 20.2.3) --------------------------------------------------------------------------------
def path(text: str) -> bytes:
    """A NameString: ``\\_SB.PCI0``, ``^COM1``, ``_CRS``; segments shorter than 4 characters are padded with ``_``."""
    rest = text.lstrip("\\^")
    prefix = text[: len(text) - len(rest)].encode()
    segments = [segment.ljust(4, "_").encode() for segment in rest.split(".")] if rest else []
    if any(len(segment) != 4 for segment in segments):
        raise ValueError(f"AML name {text!r}: segments have at most 4 characters")
    count = {0: b"\0", 1: b"", 2: b"\x2e"}.get(len(segments), b"\x2f" + bytes([len(segments)]))
    return prefix + count + b"".join(segments)


def integer(value: int) -> bytes:
    """The shortest encoding of 0 <= value < 2**64."""
    if value in (0, 1):
        return bytes([value])
    for prefix, code, limit in ((0x0A, "B", 1 << 8), (0x0B, "H", 1 << 16), (0x0C, "I", 1 << 32)):
        if value < limit:
            return pack("<B" + code, prefix, value)
    return pack("<BQ", 0x0E, value)


def value(item: Value) -> bytes:
    """An int or str as AML; bytes pass through."""
    if isinstance(item, int):
        return integer(item)
    return b"\x0d" + item.encode("ascii") + b"\0" if isinstance(item, str) else item


def eisa_id(text: str) -> bytes:
    """A Plug and Play id such as "PNP0501" as the compressed 32-bit integer (6.1.5): 3 letters of 5 bits, 4 hex digits."""
    a, b, c = (ord(letter) - 0x40 for letter in text[:3])
    return b"\x0c" + pack(">HH", a << 10 | b << 5 | c, int(text[3:], 16))


def length_prefixed(body: bytes) -> bytes:
    """PkgLength and body (20.2.4). The length counts its own 1 to 4 bytes."""
    if len(body) + 1 < 1 << 6:
        return bytes([len(body) + 1]) + body
    for extra in (1, 2, 3):
        total = len(body) + 1 + extra
        if total < 1 << 4 + 8 * extra:
            return bytes([extra << 6 | total & 0xF]) + (total >> 4).to_bytes(extra, "little") + body
    raise ValueError("AML package of 256 MiB or more")


def buffer(data: bytes) -> bytes:
    """DefBuffer."""
    return b"\x11" + length_prefixed(integer(len(data)) + data)


def package(*elements: Value, count: int = 0) -> bytes:
    """DefPackage with at most 255 elements; ``count`` says how many when bytes hold several."""
    return b"\x12" + length_prefixed(bytes([count or len(elements)]) + b"".join(value(element) for element in elements))


# --- objects (20.2.5) -------------------------------------------------------------------------------------------------
def name(where: str, what: Value) -> bytes:
    """Name (where, what)."""
    return b"\x08" + path(where) + value(what)


def scope(where: str, *terms: bytes) -> bytes:
    """Scope (where) { terms }."""
    return b"\x10" + length_prefixed(path(where) + b"".join(terms))


def device(where: str, *terms: bytes) -> bytes:
    """Device (where) { terms }."""
    return b"\x5b\x82" + length_prefixed(path(where) + b"".join(terms))


def method(where: str, arguments: int, *terms: bytes, serialized: bool = False) -> bytes:
    """Method (where, arguments, NotSerialized) { terms }."""
    return b"\x14" + length_prefixed(path(where) + bytes([arguments | serialized << 3]) + b"".join(terms))


def store(what: Value, target: bytes) -> bytes:
    """Store (what, target); the target is a path(), ARG0.. or LOCAL0.."""
    return b"\x70" + value(what) + target


def give_back(what: Value) -> bytes:
    """Return (what)."""
    return b"\xa4" + value(what)


# --- resource descriptors (6.4) ---------------------------------------------------------------------------------------
def resources(*descriptors: bytes) -> bytes:
    """ResourceTemplate () { descriptors }: a buffer closed by an end tag without checksum."""
    return buffer(b"".join(descriptors) + b"\x79\0")


def io(base: int, length: int, align: int = 1) -> bytes:
    """IO (Decode16, base, base, align, length): a fixed port range of at most 255 bytes."""
    return pack("<BBHHBB", 0x47, 1, base, base, align, length)


def irq(*lines: int) -> bytes:
    """IRQNoFlags () { lines }: edge, active high, exclusive; lines 0..15."""
    return pack("<BH", 0x22, sum(1 << line for line in lines))


def interrupt(gsi: int, *, level: bool = True, active_low: bool = False, shared: bool = False) -> bytes:
    """Interrupt (ResourceConsumer, ...) { gsi }: any global system interrupt."""
    flags = 1 | (0 if level else 1 << 1) | active_low << 2 | shared << 3
    return pack("<BHBBI", 0x89, 6, flags, 1, gsi)


def memory32(base: int, length: int, *, writable: bool = True) -> bytes:
    """Memory32Fixed (ReadWrite, base, length)."""
    return pack("<BHBII", 0x86, 9, writable, base, length)


def bus_numbers(first: int, last: int) -> bytes:
    """WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode, ...)."""
    return _address_space("H", 0x88, 2, 0, first, last)


def io_window(first: int, last: int) -> bytes:
    """WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange, ...)."""
    return _address_space("H", 0x88, 1, 3, first, last)


def memory_window(first: int, last: int) -> bytes:
    """DWordMemory or, above 4 GiB, QWordMemory (ResourceProducer, ..., NonCacheable, ReadWrite, ...)."""
    return _address_space("I", 0x87, 0, 1, first, last) if last < 1 << 32 else _address_space("Q", 0x8A, 0, 1, first, last)


def _address_space(code: str, tag: int, kind: int, specific: int, first: int, last: int) -> bytes:
    fixed = 1 << 2 | 1 << 3  # minimum and maximum are fixed; the device produces the range
    body = pack("<BBB5" + code, kind, fixed, specific, 0, first, last, 0, last - first + 1)
    return pack("<BH", tag, len(body)) + body
