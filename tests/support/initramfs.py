"""Initial RAM disks for Linux guests: a static busybox, kernel modules, an /init script and extra files."""

from __future__ import annotations

import lzma
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tests.support import cpio
from tests.support.debian import DebianError, Kernel, require

BUSYBOX_PACKAGE = "busybox-static"


def build(init: str, files: Mapping[str, bytes | Path] | None = None, extra: Iterable[cpio.Entry] = ()) -> bytes:
    """An initramfs (uncompressed, the kernel takes it so) that starts the shell script `init`.

    `files` maps paths in the guest to contents or to files here; a file's executable bit is kept.
    """
    entries = [*base(), cpio.file("init", init.encode(), executable=True)]
    for name, source in (files or {}).items():
        entries.append(from_path(name, source) if isinstance(source, Path) else cpio.file(name, source))
    return cpio.archive([*entries, *extra])


def base() -> list[cpio.Entry]:
    """What every busybox guest needs: busybox, sh, mount points and the one device node /init needs to talk."""
    path = Path(require({"busybox": BUSYBOX_PACKAGE})["busybox"])
    data = path.read_bytes()
    if b"/ld-linux-x86-64.so" in data[:4096]:  # the interpreter's name stands near the program headers
        raise DebianError(f"{path} is not static: apt-get install {BUSYBOX_PACKAGE}")
    return [
        cpio.file("bin/busybox", data, executable=True),
        cpio.symlink("bin/sh", "busybox"),
        # Without /dev/console the kernel starts /init with no standard output at all.
        cpio.character_device("dev/console", 5, 1),
        *(cpio.directory(name) for name in ("proc", "sys", "tmp", "run")),
    ]


def from_path(name: str, source: Path) -> cpio.Entry:
    return cpio.file(name, source.read_bytes(), executable=bool(source.stat().st_mode & 0o100))


def from_directory(name: str, source: Path, *, skip: Iterable[str] = ()) -> list[cpio.Entry]:
    """Every file below `source`, as `name`/...; names in `skip` (of files or directories) are left out."""
    unwanted = set(skip)
    entries = []
    for path in sorted(source.rglob("*")):
        below = path.relative_to(source)
        if not path.is_file() or unwanted.intersection(below.parts):
            continue
        entries.append(from_path(f"{name}/{below}", path))
    return entries


def load_order(kernel: Kernel, names: Sequence[str]) -> list[Path]:
    """The module files to insert, in order, to get the modules `names`: dependencies first.

    The package holds no modules.dep (that is depmod's work at installation), but each module says in its
    "modinfo" section what it needs. Names the package has no file for are built into the kernel, or are misspelt,
    and the latter must not pass silently.
    """
    files = {_plain(path.name): path for path in kernel.modules.rglob("*.ko*")}
    builtin = {_plain(Path(line).name) for line in (kernel.modules / "modules.builtin").read_text().splitlines()}
    order: dict[str, Path] = {}

    def visit(name: str) -> None:
        name = name.replace("-", "_")
        if name in order or name in builtin:
            return
        if name not in files:
            raise DebianError(f"kernel {kernel.release} has no module {name}")
        for needed in _depends(module_data(files[name])):
            visit(needed)
        order[name] = files[name]

    for name in names:
        visit(name)
    return list(order.values())


def modules(
    kernel: Kernel, names: Sequence[str], listing_name: str = "modules/order", *, signed: bool = True
) -> list[cpio.Entry]:
    """Files under /modules, and a file with their paths in the order to insert them.

    Without `signed` the modules lose their signatures. Debian's kernel loads them all the same and has no megabytes
    to hash, which is a fifth of the boot in a slow emulator.
    """
    entries = []
    for path in load_order(kernel, names):
        data = module_data(path)
        entries.append(cpio.file(f"modules/{_plain(path.name)}.ko", data if signed else without_signature(data)))
    listing = "".join(f"/{entry.name}\n" for entry in entries)
    return [*entries, cpio.file(listing_name, listing.encode())]


def module_data(path: Path) -> bytes:
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def without_signature(module: bytes) -> bytes:
    """The ELF file alone, of ELF file, signature, struct module_signature (its length is the last field), magic."""
    magic = b"~Module signature appended~\n"
    if not module.endswith(magic):
        return module
    descriptor = len(module) - len(magic) - 12
    (length,) = struct.unpack_from(">I", module, descriptor + 8)
    return module[: descriptor - length]


def _plain(name: str) -> str:
    return name.partition(".ko")[0].replace("-", "_")


def _depends(module: bytes) -> list[str]:
    match = re.search(rb"\0depends=([^\0]*)\0", b"\0" + module)
    return [name for name in match[1].decode().split(",") if name] if match else []
