"""Writes "newc" cpio archives, the format the Linux kernel unpacks as its initramfs.

The layout is the one in Documentation/driver-api/early-userspace/buffer-format.rst: a 110-byte header of
ASCII hexadecimal fields, the name, the data, each padded to four bytes, and a member called TRAILER!!! at
the end. Writing it here spares the tests the `cpio` program and, more to the point, root: device nodes and
owners are fields in a header, not files that somebody has to create first.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"
# Archives may be appended to one another; 512 is what the cpio program pads to, and any multiple of 4 does.
_BLOCK = 512


@dataclass(frozen=True)
class Entry:
    """One member. `data` is the contents of a file, or the target of a symbolic link."""

    name: str
    mode: int
    data: bytes = b""
    rdev: tuple[int, int] = (0, 0)


def file(name: str, data: bytes, *, executable: bool = False) -> Entry:
    return Entry(name, stat.S_IFREG | (0o755 if executable else 0o644), data)


def directory(name: str) -> Entry:
    return Entry(name, stat.S_IFDIR | 0o755)


def symlink(name: str, target: str) -> Entry:
    return Entry(name, stat.S_IFLNK | 0o777, target.encode())


def character_device(name: str, major: int, minor: int) -> Entry:
    return Entry(name, stat.S_IFCHR | 0o600, rdev=(major, minor))


def archive(entries: Iterable[Entry]) -> bytes:
    """The archive of `entries`, with the parent directories that were not named put in before them.

    The kernel silently drops a file whose directory does not exist, hence the parents. Where a name comes
    twice the last one stands, so that a caller can override a file of a prepared set.
    """
    members: dict[str, Entry] = {}
    for entry in entries:
        parts = entry.name.strip("/").split("/")
        for depth in range(1, len(parts)):
            parent = "/".join(parts[:depth])
            members.setdefault(parent, directory(parent))
        members["/".join(parts)] = entry
    out = bytearray()
    for number, (name, entry) in enumerate(members.items(), start=1):
        out += _member(number, name, entry)
    out += _member(0, _TRAILER, Entry(_TRAILER, 0))
    return bytes(out + bytes(-len(out) % _BLOCK))


def _member(inode: int, name: str, entry: Entry) -> bytes:
    raw_name = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (
        inode,
        entry.mode,
        0,  # uid: root
        0,  # gid: root
        links,
        0,  # mtime: none, so that equal contents give equal archives
        len(entry.data),
        0,  # device the file came from, major
        0,  # and minor
        entry.rdev[0],
        entry.rdev[1],
        len(raw_name),
        0,  # checksum: only the "crc" variant of the format has one
    )
    head = _MAGIC + b"".join(b"%08X" % field for field in fields) + raw_name
    return head + bytes(-len(head) % 4) + entry.data + bytes(-len(entry.data) % 4)
