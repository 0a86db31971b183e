"""What a virtio-blk device offers: the user's choices, feature bits, and its configuration space. Sections: Virtio specification 1.2."""

from __future__ import annotations

from struct import pack_into

from pyvmm.devices.virtio.blk_request import SECTOR
from pyvmm.record import FrozenRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.backends.block.backend import BlockBackend
    from pyvmm.devices.virtio.blk_request import Disk

# 5.2.3
F_SEG_MAX, F_GEOMETRY, F_RO, F_BLK_SIZE, F_FLUSH, F_TOPOLOGY = 1 << 2, 1 << 4, 1 << 5, 1 << 6, 1 << 9, 1 << 10
F_CONFIG_WCE, F_MQ, F_DISCARD, F_WRITE_ZEROES = 1 << 11, 1 << 12, 1 << 13, 1 << 14
CONFIG_LENGTH = 0x3C
WRITEBACK = 0x20  # the one writable byte of the configuration space

_DISCARD_SECTORS = (1 << 31) // SECTOR - 8  # 2 GiB: nearly free on the host
_DISCARD_SEGMENTS = 64
_ZERO_SECTORS = (128 << 20) // SECTOR  # a backend may have to write them
_ALIGNMENT = 4096  # what file systems give back


class BlkOptions(FrozenRecord):
    """What the user may choose.

    Fields:
        serial: up to 20 bytes, the rest is cut off.
        queues: 1 or more.
        queue_size: descriptors, a power of two from 4. Linux makes requests of up to two pages fewer, and of 1 MiB as a rule: with
            256 each of those would be cut in two.
        logical, physical: block sizes in bytes, powers of two from 512.
        min_io, opt_io: bytes the driver should read and write at least, at best; 0 for no opinion.
        write_cache: whether the guest finds the write cache on; None as the backend has it.
        discard, write_zeroes: whether to offer these requests (discard: if the backend can).
    """

    serial: str = ""
    queues: int = 1
    queue_size: int = 512
    logical: int = 512
    physical: int = 512
    min_io: int = 0
    opt_io: int = 0
    write_cache: bool | None = None
    discard: bool = True
    write_zeroes: bool = True


def features(options: BlkOptions, backend: BlockBackend) -> int:
    """Feature bits to offer (5.2.3)."""
    found = F_SEG_MAX | F_GEOMETRY | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY | F_CONFIG_WCE
    found |= (F_RO if backend.readonly else 0) | (F_MQ if options.queues > 1 else 0)
    if not backend.readonly:
        found |= F_DISCARD if options.discard and backend.discard else 0
        found |= F_WRITE_ZEROES if options.write_zeroes else 0
    return found


def set_limits(disk: Disk, offered: int, may_unmap: bool) -> None:
    """How much a request may discard or zero, of what is offered."""
    if offered & F_DISCARD:
        disk.discard_sectors = _DISCARD_SECTORS
        disk.discard_segments = _DISCARD_SEGMENTS
    if offered & F_WRITE_ZEROES:
        disk.write_zeroes_sectors = _ZERO_SECTORS
        disk.write_zeroes_segments = 1
        disk.may_unmap = may_unmap


def space(options: BlkOptions, disk: Disk) -> bytearray:
    """The configuration space (5.2.4, Device configuration layout)."""
    config = bytearray(CONFIG_LENGTH)
    size, logical = disk.size, options.logical
    cylinders = min(size // (16 * 63 * SECTOR), 16383)
    # Header and status need a descriptor each; without the limit Linux sends one segment per request
    pack_into("<QIIHBBI", config, 0, size // SECTOR, 0, max(options.queue_size - 2, 1), cylinders, 16, 63, logical)
    exponent = max(options.physical // logical, 1).bit_length() - 1
    pack_into("<BBHI", config, 0x18, exponent, 0, min(options.min_io // logical, 0xFFFF), options.opt_io // logical)
    pack_into("<H", config, 0x22, options.queues)
    alignment = max(_ALIGNMENT, logical) // SECTOR if disk.discard_sectors else 0
    pack_into("<III", config, 0x24, disk.discard_sectors, disk.discard_segments, alignment)
    pack_into("<IIB", config, 0x30, disk.write_zeroes_sectors, disk.write_zeroes_segments, disk.may_unmap)
    return config
