"""Register table of the firmware configuration device. Sections: QEMU docs/specs/fw_cfg.rst."""

from __future__ import annotations

from pyvmm.devices.device import Register

REGISTERS = (
    Register(name="SELECTOR", offset=0, size=2, access="w", section="Selector register"),
    Register(name="DATA", offset=1, size=1, access="r", section="Data register"),
    Register(name="DMA_HIGH", offset=4, size=4, access="rw", reset=0x554D4551, section="DMA interface (big-endian)"),
    Register(name="DMA_LOW", offset=8, size=4, access="rw", reset=0x47464320, section="DMA interface (big-endian)"),
)
