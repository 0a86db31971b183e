"""A FAT16 file system from a dictionary, as a whole disk: what UEFI firmware boots from. (Microsoft's fatgen103.)

Names are DOS's: eight letters, a dot, three.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import pack

SECTOR, CLUSTER, ROOT_ENTRIES, RESERVED = 512, 4096, 512, 1
LEAST, MOST = 4085, 65524  # clusters of a FAT16 (fatgen103, "FAT Type Determination")
FIXED_DISK, DIRECTORY, ARCHIVE = 0xF8, 0x10, 0x20
END = 0xFFFF


def build(files: Mapping[str, bytes], spare: int = 0) -> bytes:
    """The disk.

    Args:
        files: path, with slashes -> contents.
        spare: bytes to be left free at least.
    """
    tree: dict[str, object] = {}
    for path, data in files.items():
        *folders, name = path.strip("/").split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})  # type: ignore[assignment]
        place[name] = data
    fat = [FIXED_DISK | 0xFF00, END]
    area = bytearray()

    def put(data: bytes) -> int:
        """Its first cluster."""
        first, count = len(fat), -(-len(data) // CLUSTER)
        fat.extend(range(first + 1, first + count))
        fat.append(END)
        area.extend(data.ljust(count * CLUSTER, b"\0"))
        return first

    def entries(folder: Mapping[str, object]) -> bytes:
        found = b""
        for name, what in folder.items():
            if isinstance(what, dict):
                inner = entries(what)  # its subfolders' and files' places come first: no entry ".." has to be mended but its own
                found += _entry(name, DIRECTORY, put(_entry(".", DIRECTORY, 0, 0) + _entry("..", DIRECTORY, 0, 0) + inner), 0)
            else:
                assert isinstance(what, bytes)
                found += _entry(name, ARCHIVE, put(what) if what else 0, len(what))
        return found

    root = entries(tree)
    assert len(root) <= 32 * ROOT_ENTRIES
    clusters = max(len(fat) - 2 + -(-spare // CLUSTER), LEAST)
    assert clusters <= MOST
    fat_sectors = -(-2 * (clusters + 2) // SECTOR)
    before = RESERVED * SECTOR + fat_sectors * SECTOR + 32 * ROOT_ENTRIES
    total = (before + clusters * CLUSTER) // SECTOR
    boot = b"\xeb\x3c\x90" + b"PYVMM   " + pack("<HBHBHHBHHHII", SECTOR, CLUSTER // SECTOR, RESERVED, 1, ROOT_ENTRIES,
        total if total < 1 << 16 else 0, FIXED_DISK, fat_sectors, 63, 255, 0, 0 if total < 1 << 16 else total)  # fmt: skip
    boot += pack("<BBBI11s8s", 0x80, 0, 0x29, 0x12345678, b"PYVMM      ", b"FAT16   ")
    table = b"".join(pack("<H", each) for each in fat).ljust(fat_sectors * SECTOR, b"\0")
    head = boot.ljust(510, b"\0") + b"\x55\xaa" + table + root.ljust(32 * ROOT_ENTRIES, b"\0")
    return head + bytes(area).ljust(clusters * CLUSTER, b"\0")


def _entry(name: str, attributes: int, cluster: int, size: int) -> bytes:
    stem, _, extension = name.upper().partition(".") if name.strip(".") else (name, "", "")
    short = stem.encode().ljust(8) + extension.encode().ljust(3)
    assert len(short) == 11, name
    return pack("<11sB8xHHHHI", short, attributes, 0, 0, 0x5821, cluster, size)
