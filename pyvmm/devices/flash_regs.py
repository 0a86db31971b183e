"""What can be read of a flash chip outside array mode: at every address the one register its last command chose."""

from __future__ import annotations

from pyvmm.devices.device import Register, bits

REGISTERS = (
    Register(
        name="STATUS",
        offset=0,
        size=1,
        access="r",
        section="Intel 28F008SA, status register",
        when="after 0x70 and operations",
        fields=bits("PSE 4 program error", "ESE 5 erase error", "WSMS 7 ready"),
    ),
    Register(name="COMMAND", offset=0, size=1, access="w", section="Intel 28F008SA, command definitions"),
)
