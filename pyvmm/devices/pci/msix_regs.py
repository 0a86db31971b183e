"""Register table of one MSI-X vector, 16 bytes; the table has as many as there are vectors, the pending bits follow."""

from __future__ import annotations

from pyvmm.devices.device import Register, bits

_S = "PCI 3.0 6.8.2"

ENTRY = (
    Register(name="ADDR", offset=0, size=4, access="rw", section=_S),
    Register(name="UADDR", offset=4, size=4, access="rw", section=_S),
    Register(name="MSG", offset=8, size=4, access="rw", section=_S),
    Register(name="CTRL", offset=12, size=4, access="rw", reset=1, section=_S, fields=bits("MASK 0 not to be sent")),
)
