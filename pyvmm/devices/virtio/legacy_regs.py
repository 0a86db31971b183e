"""Register table of BAR 0 of a transitional virtio-pci function. Sections: Virtio specification 1.2."""

from __future__ import annotations

from pyvmm.devices.device import Register
from pyvmm.devices.virtio.mmio_regs import ISR_BITS, STATUS_BITS

_S = "4.1.4.10"

REGISTERS = (
    Register(name="device_features", offset=0x00, size=4, access="r", section=_S, when="the device's, and bits 27 to 29"),
    Register(name="driver_features", offset=0x04, size=4, access="rw", section=_S),
    Register(name="queue_address", offset=0x08, size=4, access="rw", section=_S, when="in pages of 4 KiB"),
    Register(name="queue_size", offset=0x0C, size=2, access="r", section=_S, when="the device's"),
    Register(name="queue_select", offset=0x0E, size=2, access="rw", section=_S),
    Register(name="queue_notify", offset=0x10, size=2, access="w", section=_S),
    Register(name="device_status", offset=0x12, size=1, access="rw", section="2.1", fields=STATUS_BITS),
    Register(name="ISR", offset=0x13, size=1, access="r", section="4.1.4.5", fields=ISR_BITS),
    Register(name="config_msix_vector", offset=0x14, size=2, access="rw", reset=0xFFFF, section=_S, when="with MSI-X; else configuration"),
    Register(name="queue_msix_vector", offset=0x16, size=2, access="rw", reset=0xFFFF, section=_S, when="with MSI-X; else configuration"),
)
