"""Configuration space of virtio-net. Sections: Virtio specification 1.2."""

from __future__ import annotations

from pyvmm.devices.device import Register, bits

REGISTERS = (
    Register(name="MAC", offset=0x0, size=6, access="r", section="5.1.4"),
    Register(name="STATUS", offset=0x6, size=2, access="r", fields=bits("LINK_UP 0", "ANNOUNCE 1"), section="5.1.4"),
    Register(name="MAX_VIRTQUEUE_PAIRS", offset=0x8, size=2, access="r", reset=1, section="5.1.4"),
    Register(name="MTU", offset=0xA, size=2, access="r", section="5.1.4"),
)
