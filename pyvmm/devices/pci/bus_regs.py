"""Register table of the PCI bus's ports."""

from __future__ import annotations

from pyvmm.devices.device import Register, bits

REGISTERS = (
    Register(
        name="CONFADD",
        offset=0,
        size=4,
        access="rw",
        section="PCI 3.0 3.2.2.3.2",
        fields=bits("REG 7:2 register", "FUNC 10:8 function", "DEV 15:11 slot", "BUS 23:16 bus", "CONE 31 enable"),
    ),
    Register(
        name="RST_CNT",
        offset=1,
        size=1,
        access="rw",
        section="ICH RST_CNT",
        when="byte access",
        fields=bits("SYS_RST 1 hard reset", "RST_CPU 2 0 to 1 resets", "FULL_RST 3 with power cycle"),
    ),
    Register(name="CONFDATA", offset=4, size=4, access="rw", reset=0xFFFF_FFFF, section="PCI 3.0 3.2.2.3.2"),
)
