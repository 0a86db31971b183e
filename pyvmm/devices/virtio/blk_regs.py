"""Configuration space of virtio-blk. Sections: Virtio specification 1.2."""

from __future__ import annotations

from pyvmm.devices.device import Register

REGISTERS = (
    Register(name="CAPACITY", offset=0x00, size=8, access="r", section="5.2.4"),
    Register(name="SIZE_MAX", offset=0x08, size=4, access="r", section="5.2.4"),
    Register(name="SEG_MAX", offset=0x0C, size=4, access="r", section="5.2.4"),
    Register(name="CYLINDERS", offset=0x10, size=2, access="r", section="5.2.4"),
    Register(name="HEADS", offset=0x12, size=1, access="r", section="5.2.4"),
    Register(name="SECTORS", offset=0x13, size=1, access="r", section="5.2.4"),
    Register(name="BLK_SIZE", offset=0x14, size=4, access="r", section="5.2.4"),
    Register(name="PHYSICAL_BLOCK_EXP", offset=0x18, size=1, access="r", section="5.2.4"),
    Register(name="ALIGNMENT_OFFSET", offset=0x19, size=1, access="r", section="5.2.4"),
    Register(name="MIN_IO_SIZE", offset=0x1A, size=2, access="r", section="5.2.4"),
    Register(name="OPT_IO_SIZE", offset=0x1C, size=4, access="r", section="5.2.4"),
    Register(name="WRITEBACK", offset=0x20, size=1, access="rw", section="5.2.4"),
    Register(name="NUM_QUEUES", offset=0x22, size=2, access="r", section="5.2.4"),
    Register(name="MAX_DISCARD_SECTORS", offset=0x24, size=4, access="r", section="5.2.4"),
    Register(name="MAX_DISCARD_SEG", offset=0x28, size=4, access="r", section="5.2.4"),
    Register(name="DISCARD_SECTOR_ALIGNMENT", offset=0x2C, size=4, access="r", section="5.2.4"),
    Register(name="MAX_WRITE_ZEROES_SECTORS", offset=0x30, size=4, access="r", section="5.2.4"),
    Register(name="MAX_WRITE_ZEROES_SEG", offset=0x34, size=4, access="r", section="5.2.4"),
    Register(name="WRITE_ZEROES_MAY_UNMAP", offset=0x38, size=1, access="r", section="5.2.4"),
)
