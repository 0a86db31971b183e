"""Register table of BAR 4 of a modern virtio-pci function. Sections: Virtio specification 1.2."""

from __future__ import annotations

from pyvmm.devices.device import Register
from pyvmm.devices.virtio.mmio_regs import ISR_BITS, STATUS_BITS

_S = "4.1.4.3"

REGISTERS = (
    Register(name="device_feature_select", offset=0x00, size=4, access="rw", section=_S),
    Register(name="device_feature", offset=0x04, size=4, access="r", section=_S, when="the device's, and bits 28 and 29"),
    Register(name="driver_feature_select", offset=0x08, size=4, access="rw", section=_S),
    Register(name="driver_feature", offset=0x0C, size=4, access="rw", section=_S),
    Register(name="config_msix_vector", offset=0x10, size=2, access="rw", reset=0xFFFF, section=_S),
    Register(name="num_queues", offset=0x12, size=2, access="r", section=_S, when="the device's"),
    Register(name="device_status", offset=0x14, size=1, access="rw", section="2.1", fields=STATUS_BITS),
    Register(name="config_generation", offset=0x15, size=1, access="r", section=_S),
    Register(name="queue_select", offset=0x16, size=2, access="rw", section=_S),
    Register(name="queue_size", offset=0x18, size=2, access="rw", section=_S, when="the device's"),
    Register(name="queue_msix_vector", offset=0x1A, size=2, access="rw", reset=0xFFFF, section=_S),
    Register(name="queue_enable", offset=0x1C, size=2, access="rw", section=_S),
    Register(name="queue_notify_off", offset=0x1E, size=2, access="r", section=_S),
    Register(name="queue_desc", offset=0x20, size=8, access="rw", section=_S),
    Register(name="queue_driver", offset=0x28, size=8, access="rw", section=_S),
    Register(name="queue_device", offset=0x30, size=8, access="rw", section=_S),
    Register(name="queue_notif_config_data", offset=0x38, size=2, access="r", section=_S),
    Register(name="queue_reset", offset=0x3A, size=2, access="rw", section="2.6.1"),
    Register(name="ISR", offset=0x1000, size=1, access="r", section="4.1.4.5", fields=ISR_BITS),
    Register(name="queue_notify", offset=0x3000, size=2, access="w", section="4.1.4.4", when="queue n at +4n"),
)
