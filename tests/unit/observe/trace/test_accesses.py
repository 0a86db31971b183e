"""Accesses as lines."""

from __future__ import annotations

from typing import Any

import pytest

from pyvmm.observe.explain.layout import Window
from pyvmm.observe.trace import accesses

SERIAL = Window(base=0x3F8, length=8, device="serial0", width=1, tables=((0, "pyvmm.devices.serial_regs:REGISTERS"),))
RTC = Window(base=0x70, length=2, device="rtc", width=1, tables=((0, "pyvmm.devices.rtc_regs:REGISTERS"),))
VIRTIO, DISK = (f"pyvmm.devices.virtio.{name}_regs:REGISTERS" for name in ("pci", "blk"))
CARD = Window(base=0, length=0x4000, device="blk", tables=((0, VIRTIO), (0x2000, DISK)))


@pytest.mark.parametrize(
    ("window", "access", "state", "expected"),
    [
        (SERIAL, (5, 1, 0x60, False), {}, [("serial_lsr_read", "LSR=60 TEMT THRE")]),
        (SERIAL, (0, 1, 0x41, True), {}, [("serial_thr_write", "THR=41 'A'")]),
        (SERIAL, (0, 1, 12, True), {"lcr": 0x80}, [("serial_dll_write", "DLL=0c")]),
        (RTC, (1, 1, 0x26, False), {"index": 0x80}, [("rtc_data_read", "DATA=26"), ("rtc_sec_read", "SEC=26")]),
        (CARD, (0x14, 1, 4, True), {}, [("virtio_pci_device_status_write", "device_status=04 DRIVER_OK")]),
        (CARD, (0x2000, 4, 8, False), {}, [("virtio_blk_capacity_read", "CAPACITY=00000008")]),
        (CARD, (0x1800, 4, 8, True), {}, [("virtio_pci_gap_write", "+0x1800/4 = 0x8")]),
    ],
)
def test_lines(window: Window, access: tuple[int, int, int, bool], state: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert list(accesses.lines(window, *access, state)) == expected


def test_any_access_to_any_table_has_a_line() -> None:
    for window in (SERIAL, RTC, CARD):
        for offset in range(min(window.length, 0x120)):
            for size in (1, 2, 4, 8):
                for is_write in (False, True):
                    assert list(accesses.lines(window, offset, size, (1 << 8 * size) - 1, is_write, {}))
