"""What OVMF looks for of Intel's 440FX chip set (82441FX with PIIX4), and no more of it: three functions' identity and two registers.

OVMF (OvmfPkg, PlatformInitLib and AcpiTimerLib) goes by the device id of 00:00.0: with 0x1237 the PM block, whose timer it takes its
delays from, is where register 0x40 of 00:01.3 says, in force when bit 0 of register 0x80 is set. Its serial console hangs on a
PCI-to-ISA bridge (SioBusDxe). Of the other machines it knows, Q35 wants configuration space in memory as well, and Cloud
Hypervisor's id an entry by PVH, which the images of QEMU's kind do not have.

The PM block stands where OVMF would put it (0xB000): to power off it goes there without asking.
"""

from __future__ import annotations

from pyvmm.devices.pci.function import PciFunction

INTEL = 0x8086
HOST_BRIDGE = 0x1237  # 82441FX
ISA_BRIDGE, ISA_BRIDGE_CLASS = 0x7000, 0x06_01_00  # PIIX3, as on QEMU's PC
PM, PM_CLASS, PM_REVISION = 0x7113, 0x06_80_00, 3  # PIIX4; before revision 3 its timer cannot be read in one go
PMBA, PMREGMISC = 0x40, 0x80  # 82371AB datasheet, function 3
PMBA_IO, PMIOSE = 1 << 0, 1 << 0
SLOT, PM_FUNCTION = 1, 3


class IsaBridge(PciFunction):
    """00:01.0: says that there are ISA devices, such as the serial ports."""

    def __init__(self) -> None:
        super().__init__("isa-bridge", INTEL, ISA_BRIDGE, ISA_BRIDGE_CLASS, pin=0)


class PowerManagement(PciFunction):
    """00:01.3: where the PM block is. It stays there: both registers are read-only, which no driver minds that finds it enabled.

    Args:
        port: of the PM block, a multiple of 64.
    """

    def __init__(self, port: int) -> None:
        super().__init__("piix4-pm", INTEL, PM, PM_CLASS, revision=PM_REVISION, pin=0)
        self._preset(PMBA, 4, port | PMBA_IO)
        self._preset(PMREGMISC, 1, PMIOSE)
