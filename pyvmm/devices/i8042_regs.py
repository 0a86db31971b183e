"""Register tables of the keyboard controller. Section names: IBM PS/2 hardware interface technical reference."""

from __future__ import annotations

from pyvmm.devices.device import Register, bits

REGISTERS = (Register(name="DATA", offset=0, size=1, access="rw", section="Input and output buffers"),)
COMMAND_PORT = (
    Register(
        name="STATUS",
        offset=0,
        size=1,
        access="r",
        reset=0x14,
        section="Status register",
        fields=bits(
            "OBF 0 output buffer full",
            "IBF 1 input buffer full",
            "SYS 2 self test passed",
            "CMD 3 last write was a command",
            "UNLOCKED 4",
            "AUX 5 data from the mouse",
            "TIMEOUT 6",
            "PARITY 7",
        ),
    ),
    Register(name="COMMAND", offset=0, size=1, access="w", section="Commands"),
)
