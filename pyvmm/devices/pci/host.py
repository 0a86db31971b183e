"""The host bridge, 00:00.0: nothing but a header that tells a guest that configuration mechanism 1 works.

Linux takes the mechanism for real only when it finds a host bridge (arch/x86/pci/direct.c). The ids are neutral ones: a
real chip set's would have guests look for its registers and for the south bridge beside it (``piix`` is for firmware that insists).
"""

from __future__ import annotations

from pyvmm.devices.pci.function import PciFunction

VENDOR, DEVICE, CLASS = 0x1B36, 0x0008, 0x06_00_00  # a generic host bridge from Red Hat's range for virtual devices


class HostBridge(PciFunction):
    """No BARs, no interrupt.

    Args:
        subsystem: (vendor id, id): how firmware knows whose machine it is on.
        ids: (vendor id, device id).
    """

    def __init__(self, subsystem: tuple[int, int] = (0, 0), ids: tuple[int, int] = (VENDOR, DEVICE)) -> None:
        super().__init__("host-bridge", *ids, CLASS, subsystem=subsystem, pin=0)
