"""Configuration space of virtio-console. Sections: Virtio specification 1.2."""

from __future__ import annotations

from pyvmm.devices.device import Register

REGISTERS = (
    Register(name="COLS", offset=0x0, size=2, access="r", section="5.3.4"),
    Register(name="ROWS", offset=0x2, size=2, access="r", section="5.3.4"),
    Register(name="MAX_NR_PORTS", offset=0x4, size=4, access="r", reset=1, section="5.3.4"),
    Register(name="EMERG_WR", offset=0x8, size=4, access="w", section="5.3.4"),
)
