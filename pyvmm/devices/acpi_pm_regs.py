"""Register table of the ACPI PM block. Sections: ACPI 6.5."""

from __future__ import annotations

from pyvmm.devices.device import Register, bits

_EVENTS = ("TMR 0 timer carry", "GBL 5 global lock", "PWRBTN 8 power button", "SLPBTN 9 sleep button", "RTC 10 alarm")

REGISTERS = (
    Register(
        name="PM1_STS",
        offset=0,
        size=2,
        access="rw",
        section="4.8.3.1.1",
        fields=bits(*_EVENTS, "BM 4 bus master", "WAK 15 woken"),
    ),
    Register(name="PM1_EN", offset=2, size=2, access="rw", section="4.8.3.1.2", fields=bits(*_EVENTS)),
    Register(
        name="PM1_CNT",
        offset=4,
        size=2,
        access="rw",
        reset=0x0001,
        section="4.8.3.2.1",
        fields=bits("SCI_EN 0 ACPI mode", "BM_RLD 1", "GBL_RLS 2", "SLP_TYP 12:10 0 is S5, 1 is S3", "SLP_EN 13 go to sleep"),
    ),
    Register(name="PM_TMR", offset=8, size=4, access="r", section="4.8.3.3", fields=bits("VAL 23:0 at 3.579545 MHz")),
)
