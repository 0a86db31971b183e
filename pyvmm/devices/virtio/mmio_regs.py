"""Register table of virtio-mmio, version 2. Sections: Virtio specification 1.2."""

from __future__ import annotations

from pyvmm.devices.device import Register, bits

_S = "4.2.2"
STATUS_BITS = bits(
    "ACKNOWLEDGE 0", "DRIVER 1", "DRIVER_OK 2", "FEATURES_OK 3", "NEEDS_RESET 6 the driver broke the rules", "FAILED 7"
)  # fmt: skip
ISR_BITS = bits("QUEUE 0 requests were given back", "CONFIG 1 the configuration has changed")

REGISTERS = (
    Register(name="MagicValue", offset=0x000, size=4, access="r", reset=0x74726976, section=_S),
    Register(name="Version", offset=0x004, size=4, access="r", reset=2, section=_S),
    Register(name="DeviceID", offset=0x008, size=4, access="r", section=_S, when="the device's"),
    Register(name="VendorID", offset=0x00C, size=4, access="r", reset=0x1AF4, section=_S),
    Register(name="DeviceFeatures", offset=0x010, size=4, access="r", section=_S, when="the device's, and bits 28 and 29"),
    Register(name="DeviceFeaturesSel", offset=0x014, size=4, access="w", section=_S),
    Register(name="DriverFeatures", offset=0x020, size=4, access="w", section=_S),
    Register(name="DriverFeaturesSel", offset=0x024, size=4, access="w", section=_S),
    Register(name="QueueSel", offset=0x030, size=4, access="w", section=_S),
    Register(name="QueueSizeMax", offset=0x034, size=4, access="r", section=_S, when="the device's"),
    Register(name="QueueSize", offset=0x038, size=4, access="w", section=_S),
    Register(name="QueueReady", offset=0x044, size=4, access="rw", section=_S, fields=bits("READY 0")),
    Register(name="QueueNotify", offset=0x050, size=4, access="w", section=_S, fields=bits("INDEX 31:0")),
    Register(name="InterruptStatus", offset=0x060, size=4, access="r", section=_S, fields=ISR_BITS),
    Register(name="InterruptACK", offset=0x064, size=4, access="w", section=_S, fields=ISR_BITS),
    Register(name="Status", offset=0x070, size=4, access="rw", section="2.1", fields=STATUS_BITS),
    Register(name="QueueDescLow", offset=0x080, size=4, access="w", section=_S),
    Register(name="QueueDescHigh", offset=0x084, size=4, access="w", section=_S),
    Register(name="QueueDriverLow", offset=0x090, size=4, access="w", section=_S),
    Register(name="QueueDriverHigh", offset=0x094, size=4, access="w", section=_S),
    Register(name="QueueDeviceLow", offset=0x0A0, size=4, access="w", section=_S),
    Register(name="QueueDeviceHigh", offset=0x0A4, size=4, access="w", section=_S),
    Register(name="SHMSel", offset=0x0AC, size=4, access="w", section=_S),
    Register(name="SHMLenLow", offset=0x0B0, size=4, access="r", reset=0xFFFF_FFFF, section=_S),
    Register(name="SHMLenHigh", offset=0x0B4, size=4, access="r", reset=0xFFFF_FFFF, section=_S),
    Register(name="SHMBaseLow", offset=0x0B8, size=4, access="r", reset=0xFFFF_FFFF, section=_S),
    Register(name="SHMBaseHigh", offset=0x0BC, size=4, access="r", reset=0xFFFF_FFFF, section=_S),
    Register(name="QueueReset", offset=0x0C0, size=4, access="rw", section="2.6.1", fields=bits("RESET 0")),
    Register(name="ConfigGeneration", offset=0x0FC, size=4, access="r", section=_S),
)
