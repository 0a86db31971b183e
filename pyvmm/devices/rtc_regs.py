"""Register table of the clock: its two ports, and what the index selects. Sections: Motorola MC146818A data sheet."""

from __future__ import annotations

from pyvmm.devices.device import Register, bits

REGISTERS = (
    Register(name="INDEX", offset=0, size=1, access="w", section="PC/AT", fields=bits("REG 6:0", "NMI 7 masked")),
    Register(name="DATA", offset=1, size=1, access="rw", section="PC/AT"),
)

INDEXED = (
    Register(name="SEC", offset=0x00, size=1, access="rw", section="Time, calendar and alarm"),
    Register(name="SECALM", offset=0x01, size=1, access="rw", section="Time, calendar and alarm"),
    Register(name="MIN", offset=0x02, size=1, access="rw", section="Time, calendar and alarm"),
    Register(name="MINALM", offset=0x03, size=1, access="rw", section="Time, calendar and alarm"),
    Register(name="HOUR", offset=0x04, size=1, access="rw", section="Time, calendar and alarm"),
    Register(name="HOURALM", offset=0x05, size=1, access="rw", section="Time, calendar and alarm"),
    Register(name="WDAY", offset=0x06, size=1, access="rw", section="Time, calendar and alarm"),
    Register(name="DAY", offset=0x07, size=1, access="rw", section="Time, calendar and alarm"),
    Register(name="MONTH", offset=0x08, size=1, access="rw", section="Time, calendar and alarm"),
    Register(name="YEAR", offset=0x09, size=1, access="rw", section="Time, calendar and alarm"),
    Register(
        name="A",
        offset=0x0A,
        size=1,
        access="rw",
        reset=0x26,
        section="Register A",
        fields=bits("RS 3:0 periodic rate", "DV 6:4 2 runs, 6 and 7 reset the divider", "UIP 7 update in progress"),
    ),
    Register(
        name="B",
        offset=0x0B,
        size=1,
        access="rw",
        reset=0x02,
        section="Register B",
        fields=bits("DSE 0", "24H 1", "DM 2 binary", "SQWE 3", "UIE 4 update", "AIE 5 alarm", "PIE 6 periodic", "SET 7 time stands"),
    ),
    Register(
        name="C",
        offset=0x0C,
        size=1,
        access="r",
        section="Register C",
        fields=bits("UF 4 update", "AF 5 alarm", "PF 6 periodic", "IRQF 7"),
    ),
    Register(name="D", offset=0x0D, size=1, access="r", reset=0x80, section="Register D", fields=bits("VRT 7 time is valid")),
    Register(name="SHUTDOWN", offset=0x0F, size=1, access="rw", section="PC/AT shutdown status"),
    Register(name="CENTURY", offset=0x32, size=1, access="rw", section="ACPI FADT CENTURY"),
)
