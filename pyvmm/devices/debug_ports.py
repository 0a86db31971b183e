"""Ports that real PCs lack and test guests love: a console without a UART, and a way to end the run with a status."""

from __future__ import annotations

from pyvmm.events import DEBUG_EXIT, StopReason
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.events import RequestStop

DEBUGCON_PRESENT = 0xE9

_BYTE = [bytes((value,)) for value in range(256)]


class StatelessState(Record):
    """Nothing to snapshot."""


class DebugCon:
    """Bochs' port 0xE9 (and SeaBIOS' 0x402): every byte written is output; reads 0xE9, which says it is there.

    Map it with length 1 and width 1 wherever it is wanted, more than once if need be.
    """

    registers = "pyvmm.devices.debug_ports_regs:DEBUGCON"

    def __init__(self, output: Callable[[bytes], None], name: str = "debugcon") -> None:
        self.name = name
        self.output = output
        self.state = StatelessState()

    def read(self, offset: int, size: int) -> int:
        return DEBUGCON_PRESENT

    def write(self, offset: int, size: int, value: int) -> None:
        self.output(_BYTE[value & 0xFF])

    def reset(self) -> None:
        pass


class DebugExit:
    """QEMU's isa-debug-exit: any write ends the run; the value is handed over whole (the process status is made of it).

    Map it with ``iosize`` (1, 2 or 4) as length and width.
    """

    registers = "pyvmm.devices.debug_ports_regs:DEBUG_EXIT"

    def __init__(self, request_stop: RequestStop, name: str = "isa-debug-exit") -> None:
        self.name = name
        self.request_stop = request_stop
        self.state = StatelessState()

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        value &= (1 << 8 * size) - 1
        self.request_stop(StopReason(kind=DEBUG_EXIT, value=value, detail=f"guest wrote {value:#x} to {self.name}"))

    def reset(self) -> None:
        pass
