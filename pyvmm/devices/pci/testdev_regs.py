"""Register table of pci-testdev's BARs."""

from __future__ import annotations

from pyvmm.devices.device import Register

_S = "QEMU docs/specs/pci-testdev"

HEADER = (
    Register(name="TEST", offset=0, size=1, access="rw", section=_S),
    Register(name="WIDTH", offset=1, size=1, access="r", section=_S),
    Register(name="OFFSET", offset=4, size=4, access="r", section=_S),
    Register(name="DATA", offset=8, size=4, access="r", section=_S),
    Register(name="COUNT", offset=12, size=4, access="r", section=_S),
    Register(name="NAME", offset=16, size=1, access="r", section=_S),
)
