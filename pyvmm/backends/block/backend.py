"""What every disk offers to a device, and how a ``-drive`` becomes one."""

from __future__ import annotations

import errno
import os
import stat

from pyvmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from pyvmm.backends.block.raw import RawFile
    from pyvmm.config import DriveConfig
    from pyvmm.scatter import Views

    class BlockBackend(Protocol):
        """A disk. Every method may be called by several threads at once, and raises OSError alone.

        Offsets and lengths are bytes, inside ``size``: whoever asks for more gets EIO, and nothing happens. Views are writable
        memoryviews of bytes, straight from guest memory: another vCPU may change them meanwhile. They come in a list or, when they are
        many, in a Scatter, of which a backend makes one call of the kernel, or the same views by going over it.
        Two requests that overlap and are under way at the same time end in either order, per sector of 512 bytes.

        Attributes:
            name: for messages.
            size: in bytes, a multiple of 512.
            readonly: ``write`` and its like raise EROFS.
            block_size: requests in multiples of this are served without a copy: 512, with O_DIRECT more on some hosts.
            write_cache: what ``write`` has written may still be lost with the host's power, until ``flush``.
            discard: ``discard_range`` frees storage; False: it does nothing.
        """

        name: str
        size: int
        readonly: bool
        block_size: int
        write_cache: bool
        discard: bool

        def read(self, offset: int, views: Views) -> None:
            """Fills all views. EIO when the file has become shorter meanwhile (QEMU: zeros)."""

        def try_read(self, offset: int, views: Views) -> bool:
            """As ``read``, without waiting for a disk. False: it would have to wait, or failed; views may be partly filled."""

        def write(self, offset: int, views: Views) -> None:
            """Writes all views. After an error any part of them may be written. Never makes a file longer: EIO."""

        def flush(self) -> None:
            """What was written before now survives a loss of power. Once it has failed, it fails for good."""

        def discard_range(self, offset: int, length: int) -> None:
            """The guest needs these bytes no more; they read as anything from now on."""

        def write_zeroes(self, offset: int, length: int, unmap: bool) -> None:
            """As a ``write`` of zeros; with ``unmap`` their storage may be freed."""

        def close(self) -> None:
            """Ends it, without a flush. No other call may be under way."""


_SECTOR = 512
# (offset, first bytes, name) of images that are no raw disks
_MAGIC = (
    (0, b"QFI\xfb", "qcow2"), (0, b"KDMV", "vmdk"), (0, b"COWD", "vmdk"), (0, b"# Disk Descriptor", "vmdk"), (0, b"vhdxfile", "vhdx"),
    (0, b"conectix", "vpc"), (64, b"\x7f\x10\xda\xbe", "vdi"), (64, b"\xbe\xda\x10\x7f", "vdi"), (0, b"QED\0", "qed"),
    (0, b"LUKS\xba\xbe", "luks"), (0, b"WithoutFreeSpace", "parallels"), (0, b"WithouFreSpacExt", "parallels"),
)  # fmt: skip
_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


def open_drive(drive: DriveConfig) -> BlockBackend:
    """Opens the image of a ``-drive``, and locks it against others.

    Raises:
        ConfigError: it cannot be used; one line with problem and fix.
    """
    if drive.format == "scratch":
        from pyvmm.backends.block import temporary

        return temporary.scratch(drive)
    image = _open_image(drive, drive.readonly or drive.snapshot)
    if not drive.snapshot or drive.readonly:
        return image
    from pyvmm.backends.block import temporary

    try:
        return temporary.overlay(drive, image)
    except BaseException:
        image.close()
        raise


def _open_image(drive: DriveConfig, readonly: bool) -> RawFile:
    from pyvmm.backends.block import raw

    where = f"-drive file={drive.file}"
    is_direct = drive.cache in ("none", "directsync")
    flags = os.O_NONBLOCK | os.O_CLOEXEC | (os.O_DIRECT if is_direct else 0)
    if drive.cache in ("writethrough", "directsync"):
        flags |= os.O_DSYNC
    if drive.locking and not readonly and _is_block_device(drive.file):
        flags |= os.O_EXCL  # man 2 open: EBUSY while it is mounted, or part of a RAID or a volume
    try:
        try:
            fd = os.open(drive.file, flags | (os.O_RDONLY if readonly else os.O_RDWR))
        except OSError as error:
            if error.errno not in _UNWRITABLE or readonly or not drive.auto_read_only:
                raise
            readonly = True
            fd = os.open(drive.file, (flags | os.O_RDONLY) & ~os.O_EXCL)
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        raise ConfigError(f"{where}: {_why(drive, error, readonly, is_direct)}") from None
    try:
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            what = "a directory" if stat.S_ISDIR(mode) else "neither a regular file nor a block device"
            raise ConfigError(f"{where}: it is {what}: name a disk image")
        os.set_blocking(fd, True)
        size = os.lseek(fd, 0, os.SEEK_END)
        if not size:
            raise ConfigError(f"{where}: the file is empty: give it a size with `truncate -s 1G FILE`")
        if size % _SECTOR:
            whole = -(-size // _SECTOR) * _SECTOR
            raise ConfigError(f"{where}: {size} bytes are no multiple of {_SECTOR}: if it is a disk image, `truncate -s {whole} FILE`")
        if drive.locking:
            from pyvmm.backends.block import locks

            locks.take(fd, where, readonly)
        kind: type[RawFile] = raw.RawFile
        block_size = _SECTOR
        if is_direct:
            from pyvmm.backends.block import direct

            kind, block_size = direct.DirectFile, direct.alignment(fd, where, size)
        if drive.probed:
            _refuse_other_formats(fd, where, block_size)
        return kind(
            fd,
            drive.file,
            size,
            readonly=readonly,
            block_size=block_size,
            write_cache=drive.cache not in ("writethrough", "directsync"),
            flushes=not readonly and drive.cache != "unsafe",
            discard=drive.discard == "unmap" and not readonly,
            is_device=stat.S_ISBLK(mode),
        )
    except OSError as error:
        os.close(fd)
        raise ConfigError(f"{where}: {error.strerror}") from None
    except BaseException:
        os.close(fd)
        raise


def _is_block_device(path: str) -> bool:
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False  # opening it will tell why


def _why(drive: DriveConfig, error: OSError | ValueError, readonly: bool, is_direct: bool) -> str:
    """What kept the image from being opened, and what to do."""
    if not isinstance(error, OSError):
        return str(error)
    reason = error.strerror or str(error)
    if error.errno == errno.ENOENT:
        return f"{reason}: `truncate -s 1G FILE` makes an empty disk"
    if error.errno == errno.EBUSY:
        return f"{reason}: this host has mounted it, or uses it otherwise: unmount it, or add readonly=on"
    if error.errno == errno.EISDIR:
        return f"{reason}: name a disk image"
    if error.errno == errno.EINVAL and is_direct:
        return f"its file system has no O_DIRECT: leave out cache={drive.cache}"
    if error.errno in _UNWRITABLE:
        if not readonly and os.access(drive.file, os.R_OK):
            return f"{reason}: it cannot be written: add readonly=on, or snapshot=on for a guest that must write"
        return f"{reason}: it cannot be read by this user"
    return reason


def _refuse_other_formats(fd: int, where: str, block_size: int) -> None:
    """Raw is what an image without ``format`` is taken for, but not one that begins like another format.

    QEMU would look and believe it: then a guest that writes such a header into its raw disk decides what the next run opens.
    """
    import mmap

    with mmap.mmap(-1, max(block_size, mmap.PAGESIZE)) as page, memoryview(page) as view, view[:block_size] as block:
        os.preadv(fd, [block], 0)
        head = bytes(block[:_SECTOR])
    for offset, magic, name in _MAGIC:
        if head[offset:].startswith(magic):
            raise ConfigError(
                f"{where}: it begins like a {name} image: convert it (qemu-img convert -O raw), or add format=raw if it is a raw disk"
            )
