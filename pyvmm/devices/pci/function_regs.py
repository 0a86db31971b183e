"""Register table of a PCI function's header: offsets in configuration space."""

from __future__ import annotations

from pyvmm.devices.device import Register, bits

_S = "PCI 3.0 6.2"


def _bar(index: int) -> Register:
    fields = bits("IO 0 I/O space", "TYPE 2:1 2 is 64 bits wide", "PREF 3 prefetchable", "BASE 31:4 address")
    return Register(name=f"BAR{index}", offset=0x10 + 4 * index, size=4, access="rw", section=f"{_S}.5.1", fields=fields)


HEADER = (
    Register(name="VID", offset=0x00, size=2, access="r", section=f"{_S}.1"),
    Register(name="DID", offset=0x02, size=2, access="r", section=f"{_S}.1"),
    Register(
        name="CMD",
        offset=0x04,
        size=2,
        access="rw",
        section=f"{_S}.2",
        fields=bits(
            "IO 0 decodes I/O BARs", "MEM 1 decodes memory BARs", "BM 2 may access memory and send messages",
            "PERR 6", "SERR 8", "INTXD 10 keeps the pin off the line",
        ),
    ),
    Register(
        name="STS",
        offset=0x06,
        size=2,
        access="rw",
        section=f"{_S}.3",
        fields=bits(
            "INTS 3 the pin is asserted", "CAP 4 has capabilities", "MDPE 8 W1C", "STA 11 W1C", "RTA 12 W1C", "RMA 13 W1C", "SSE 14 W1C",
            "DPE 15 W1C",
        ),
    ),
    Register(name="RID", offset=0x08, size=1, access="r", section=f"{_S}.1"),
    Register(name="CC", offset=0x09, size=3, access="r", section=f"{_S}.1", fields=bits("IF 7:0", "SUB 15:8", "BASE 23:16")),
    Register(name="CLS", offset=0x0C, size=1, access="rw", section=f"{_S}.4"),
    Register(name="LAT", offset=0x0D, size=1, access="rw", section=f"{_S}.4"),
    Register(name="HDR", offset=0x0E, size=1, access="r", section=f"{_S}.1", fields=bits("TYPE 6:0 0", "MULTI 7 has functions above 0")),
    *(_bar(index) for index in range(6)),
    Register(name="SVID", offset=0x2C, size=2, access="r", section=f"{_S}.4"),
    Register(name="SID", offset=0x2E, size=2, access="r", section=f"{_S}.4"),
    Register(name="CAP_PTR", offset=0x34, size=1, access="r", section="PCI 3.0 6.7"),
    Register(name="ILINE", offset=0x3C, size=1, access="rw", section=f"{_S}.4"),
    Register(name="IPIN", offset=0x3D, size=1, access="r", section=f"{_S}.4"),
)
