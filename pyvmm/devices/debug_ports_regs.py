"""Register tables of the debug ports."""

from __future__ import annotations

from pyvmm.devices.device import Register

DEBUGCON = (Register(name="DEBUGCON", offset=0, size=1, access="rw", reset=0xE9, section="Bochs port 0xE9"),)
DEBUG_EXIT = (Register(name="EXIT", offset=0, size=4, access="w", section="QEMU isa-debug-exit"),)
