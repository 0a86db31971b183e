"""The PC's small system ports: A20 and fast reset (0x92), reset control (0xCF9), POST code (0x80), Bochs' power-off string (0x8900), and
those of what is not there: a keyboard (0x64), disks (0x1F0, 0x170). The speaker's gate (0x61) comes with KVM's PIT. One byte each, but
for IDE; map each with length 1, but not the reset control: its byte lies among PCI's ports, and the PCI bus hands it on.

The A20 gate is kept for reading back, but addresses are never wrapped: KVM has no A20 mask, and nothing since the
80286 wants one.
"""

from __future__ import annotations

from pyvmm.events import POWEROFF, RESET, StopReason
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.events import RequestStop

A20 = 0x02
FAST_RESET = 0x01
RESET_HARD, RESET_CPU, RESET_FULL = 0x02, 0x04, 0x08

_SHUTDOWN = b"Shutdown"


class PortState(Record):
    """The byte that was written last, as it reads back."""

    value: int = 0


class SystemPortA:
    """Port 0x92 (PS/2 system control port A): bit 1 A20, bit 0 going from 0 to 1 resets the processor.

    Bit 0 stays 1 after the reset it caused (PS/2 hardware interface reference; kvm-unit-tests x86/init.c): only
    ``reset``, the power-on one, clears it.
    """

    registers = "pyvmm.devices.system_ports_regs:PORT_A"

    def __init__(self, request_stop: RequestStop) -> None:
        self.name = "port92"
        self.request_stop = request_stop
        self.state = PortState(value=A20)

    def read(self, offset: int, size: int) -> int:
        return self.state.value

    def write(self, offset: int, size: int, value: int) -> None:
        before, self.state.value = self.state.value, value & (A20 | FAST_RESET)
        if self.state.value & ~before & FAST_RESET:
            self.request_stop(StopReason(kind=RESET, detail="fast reset through port 0x92"))

    def reset(self) -> None:
        self.state.value = A20


class ResetControl:
    """Port 0xCF9 (PIIX3 RC, ICH RST_CNT): bit 2 going from 0 to 1 resets, bit 1 says hard, bit 3 with power cycle."""

    registers = "pyvmm.devices.system_ports_regs:RESET_CONTROL"

    def __init__(self, request_stop: RequestStop) -> None:
        self.name = "reset-control"
        self.request_stop = request_stop
        self.state = PortState()

    def read(self, offset: int, size: int) -> int:
        return self.state.value

    def write(self, offset: int, size: int, value: int) -> None:
        before, self.state.value = self.state.value, value & (RESET_HARD | RESET_CPU | RESET_FULL)
        if value & ~before & RESET_CPU:
            kind = "hard" if value & RESET_HARD else "soft"
            self.request_stop(StopReason(kind=RESET, detail=f"{kind} reset through port 0xcf9"))

    def reset(self) -> None:
        self.state.value = 0


class KeyboardReset:
    """Port 0x64 of a machine without a keyboard controller: only the reset line that hangs on one (commands 0xF0 to 0xFE, even).

    For UEFI firmware: with a controller OVMF waits ten seconds and more for a keyboard to answer; where all bits of the status read 1 it
    waits for none (MdeModulePkg, Ps2KeyboardDxe).
    """

    registers = "pyvmm.devices.system_ports_regs:KEYBOARD_RESET"

    def __init__(self, request_stop: RequestStop) -> None:
        self.name = "keyboard-reset"
        self.request_stop = request_stop
        self.state = PortState()

    def read(self, offset: int, size: int) -> int:
        return (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        if value & 0xF1 == 0xF0:
            self.request_stop(StopReason(kind=RESET, detail=f"keyboard controller command {value & 0xFF:#x}"))

    def reset(self) -> None:
        pass


class EmptyIde:
    """An IDE channel with nothing on it: what is read is 0, not busy and no device, as from QEMU's.

    For firmware that takes IDE for granted on this chip set: U-Boot waits half a minute for the floating bus, which reads "busy", of a
    machine without.
    """

    registers = "pyvmm.devices.system_ports_regs:EMPTY_IDE"

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = PortState()

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        pass

    def reset(self) -> None:
        pass


class PostPort:
    """Port 0x80: keeps the last POST code. Linux writes it for its delay, so it does nothing else."""

    registers = "pyvmm.devices.system_ports_regs:POST"

    def __init__(self) -> None:
        self.name = "post"
        self.state = PortState()

    def read(self, offset: int, size: int) -> int:
        return self.state.value

    def write(self, offset: int, size: int, value: int) -> None:
        self.state.value = value & 0xFF

    def reset(self) -> None:
        self.state.value = 0


class ShutdownState(Record):
    """How many letters of the string have come in order."""

    matched: int = 0


class BochsShutdown:
    """Port 0x8900: writing the letters of "Shutdown" one after the other switches the machine off."""

    registers = "pyvmm.devices.system_ports_regs:BOCHS_SHUTDOWN"

    def __init__(self, request_stop: RequestStop) -> None:
        self.name = "bochs-shutdown"
        self.request_stop = request_stop
        self.state = ShutdownState()

    def read(self, offset: int, size: int) -> int:
        return (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        letter = value & 0xFF
        matched = self.state.matched
        if letter == _SHUTDOWN[matched]:
            matched += 1
        else:
            matched = 1 if letter == _SHUTDOWN[0] else 0
        if matched == len(_SHUTDOWN):
            matched = 0
            self.request_stop(StopReason(kind=POWEROFF, detail='"Shutdown" written to port 0x8900'))
        self.state.matched = matched

    def reset(self) -> None:
        self.state.matched = 0
