"""ELF executables with a symbol table, byte by byte (System V gABI, chapter 4), and a small guest to debug by its symbols."""

from __future__ import annotations

from struct import pack

FUNCTION, OBJECT, LABEL, FILE = 2, 1, 0, 4
GLOBAL, LOCAL = 1, 0
ABSOLUTE, UNDEFINED, TEXT = 0xFFF1, 0, 1

# (name, value, size, type, binding, section)
Entry = tuple[str, int, int, int, int, int]


def executable(code: bytes, entries: list[Entry], *, wide: bool = True, linear: int, physical: int, memory: int = 0) -> bytes:
    """One segment with ``code``, ``memory`` bytes long or as long as the code, and symbols; entered at its start. No code: names only."""
    names = b"\0" + b"".join(entry[0].encode() + b"\0" for entry in entries)
    table = bytes(24 if wide else 16)
    for name, value, size, kind, binding, home in entries:
        at, info = names.find(b"\0" + name.encode() + b"\0") + 1, kind | binding << 4
        table += pack("<IBBHQQ", at, info, 0, home, value, size) if wide else pack("<IIIBBH", at, value, size, info, 0, home)
    memory = max(memory, len(code))
    header, program, section_size = (64, 56, 64) if wide else (52, 32, 40)
    start = header + program
    if wide:
        segment = pack("<IIQQQQQQ", 1, 7, start, linear, physical, len(code), memory, 0)
    else:
        segment = pack("<8I", 1, start, linear, physical, len(code), memory, 7, 0)
    names_of_sections = b"\0.text\0.symtab\0.strtab\0.shstrtab\0"

    def section(name: str, kind: int, flags: int, address: int, offset: int, size: int, link: int = 0, entry: int = 0) -> bytes:
        at = names_of_sections.find(name.encode() + b"\0") if name else 0
        return pack("<IIQQQQIIQQ" if wide else "<10I", at, kind, flags, address, offset, size, link, 0, 0, entry)

    at = start + len(code)
    sections = section("", 0, 0, 0, 0, 0) + section(".text", 1 if code else 8, 7, linear, start, len(code) or memory)
    sections += section(".symtab", 2, 0, 0, at, len(table), 3, 24 if wide else 16)
    sections += section(".strtab", 3, 0, 0, at + len(table), len(names))
    sections += section(".shstrtab", 3, 0, 0, at + len(table) + len(names), len(names_of_sections))
    body = segment + code + table + names + names_of_sections
    head = b"\x7fELF" + bytes([2 if wide else 1, 1, 1]) + bytes(9) + pack("<HHI", 2, 62 if wide else 3, 1)
    head += pack("<QQQIHHHHHH" if wide else "<IIIIHHHHHH", linear, header, header + len(body), 0, header, program, 1, section_size, 5, 4)
    return bytes(head + body + sections)


BASE = 0x10_0000
COUNTER = BASE + 0x1000
_CODE = (
    bytes.fromhex("ff0425") + pack("<I", COUNTER)  # _start: inc dword ptr [counter]
    + bytes.fromhex("e807000000")  # call work
    + bytes.fromhex("b078 e6e9")  # mov al, 'x'; out 0xe9, al
    + bytes.fromhex("ebee")  # jmp _start
    + bytes.fromhex("90")
    + bytes.fromhex("55 4889e5 5d c3")  # work: push rbp; mov rbp, rsp; pop rbp; ret
)  # fmt: skip
WORK = BASE + 19
LOOP = (0, 7, 19, 20, 23, 24, 12, 14, 16)  # offsets of the instructions, as they follow one another


def counting_guest() -> bytes:
    """64-bit code that counts its rounds, one exit and nine instructions each; symbols _start, work, counter."""
    return executable(
        _CODE,
        [
            ("_start", BASE, 18, FUNCTION, GLOBAL, TEXT),
            ("work", WORK, 6, FUNCTION, GLOBAL, TEXT),
            ("counter", COUNTER, 4, OBJECT, GLOBAL, TEXT),
        ],
        linear=BASE,
        physical=BASE,
        memory=0x2000,
    )
