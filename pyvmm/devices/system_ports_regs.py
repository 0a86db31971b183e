"""Register tables of the small system ports."""

from __future__ import annotations

from pyvmm.devices.device import Register, bits

PORT_A = (
    Register(
        name="PORTA",
        offset=0,
        size=1,
        access="rw",
        reset=0x02,
        section="PS/2 system control port A",
        fields=bits("RESET 0 0 to 1 resets the processor", "A20 1 address line 20 open"),
    ),
)
KEYBOARD_RESET = (
    Register(name="STATUS", offset=0, size=1, access="r", reset=0xFF, section="IBM PS/2, status register", when="nothing answers"),
    Register(name="COMMAND", offset=0, size=1, access="w", section="IBM PS/2, commands", when="0xf0 to 0xfe"),
)
RESET_CONTROL = (
    Register(
        name="RST_CNT",
        offset=0,
        size=1,
        access="rw",
        section="ICH RST_CNT",
        fields=bits("SYS_RST 1 hard reset", "RST_CPU 2 0 to 1 resets", "FULL_RST 3 with power cycle"),
    ),
)
POST = (Register(name="POST", offset=0, size=1, access="rw", section="AT POST code"),)
BOCHS_SHUTDOWN = (Register(name="SHUTDOWN", offset=0, size=1, access="w", section='Bochs: "Shutdown" switches off'),)
EMPTY_IDE = tuple(
    Register(name=name, offset=offset, size=1, access="rw", section="ATA/ATAPI-6, clause 7")
    for offset, name in enumerate(("DATA", "ERROR", "COUNT", "LBA_LOW", "LBA_MID", "LBA_HIGH", "DEVICE", "STATUS"))
)
