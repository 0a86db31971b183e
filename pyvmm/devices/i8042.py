"""The keyboard controller (Intel 8042 as the PC/AT and the PS/2 wire it), with nothing plugged in.

It is here to reset the machine, to answer for A20, and to let drivers find out quickly that there is no keyboard: every
command is answered at once, because a driver that waits for an answer waits half a second (Linux: 10000 reads). What
is sent to the keyboard comes back as 0xFE with the time-out bit, which is what the controller says of a device that
does not answer. There is no second (mouse) interface: loopback data does not come back from it, and its test fails.
"""

from __future__ import annotations

from pyvmm.events import RESET, StopReason
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.events import RequestStop
    from pyvmm.irq import IrqLine

DATA, COMMAND = 0, 4  # offsets from port 0x60

# Status. Bit 1 (input buffer full) is never set: everything written is consumed at once.
OBF, SYSTEM, WAS_COMMAND, UNLOCKED, AUX_DATA, TIMEOUT = 0x01, 0x04, 0x08, 0x10, 0x20, 0x40
# Controller command byte
CTR_KBD_INT, CTR_SYSTEM, CTR_KBD_OFF, CTR_AUX_OFF, CTR_TRANSLATE = 0x01, 0x04, 0x10, 0x20, 0x40
# Output port
OUT_NO_RESET, OUT_A20, OUT_KBD_FULL, OUT_IDLE = 0x01, 0x02, 0x10, 0xCC

NO_ANSWER = 0xFE
SELF_TEST_OK = 0x55
_REPLIES = {
    0xA4: 0xF1,  # is there a password: no
    0xA9: 0x01,  # test of the mouse interface: clock line stuck low
    0xAB: 0x00,  # test of the keyboard interface: passed
    0xC0: 0x80,  # input port: keyboard not locked
    0xE0: 0x00,  # test inputs: both clocks low
}


class I8042State(Record):
    """What a snapshot of the controller holds.

    Fields:
        status: as the next read returns it.
        data: the output buffer, valid while status has OBF.
        expects: the command whose parameter the next write to the data port is, or 0.
        ram: the controller's 32 bytes; the first is the command byte (CTR).
        output: the output port: reset line, A20.
    """

    status: int = UNLOCKED | SYSTEM
    data: int = 0
    expects: int = 0
    ram: bytearray = bytearray((CTR_KBD_INT | CTR_SYSTEM | CTR_AUX_OFF | CTR_TRANSLATE,)) + bytes(31)
    output: int = OUT_NO_RESET | OUT_A20 | OUT_IDLE


class I8042:
    """The controller. Map itself at 0x60 and ``command_port`` at 0x64, each with length 1.

    Args:
        irq: IRQ 1.
        request_stop: for resets.
    """

    registers = "pyvmm.devices.i8042_regs:REGISTERS"

    def __init__(self, irq: IrqLine, request_stop: RequestStop) -> None:
        self.name = "i8042"
        self.irq = irq
        self.request_stop = request_stop
        self.state = I8042State()
        self.command_port = CommandPort(self)

    def read(self, offset: int, size: int) -> int:
        state = self.state
        if offset == COMMAND:
            return state.status
        if offset != DATA:
            return (1 << 8 * size) - 1
        state.status &= ~(OBF | AUX_DATA | TIMEOUT)
        self.irq.set(0)
        return state.data

    def write(self, offset: int, size: int, value: int) -> None:
        value &= 0xFF
        state = self.state
        if offset == COMMAND:
            state.status |= WAS_COMMAND
            state.expects = 0
            self._command(value)
        elif offset == DATA:
            state.status &= ~WAS_COMMAND
            command, state.expects = state.expects, 0
            self._data(command, value)

    def reset(self) -> None:
        self.state = I8042State()
        self.irq.set(0)

    def restored(self) -> None:
        """After the state was assigned from outside: the line follows."""
        self._update_irq()

    def _command(self, command: int) -> None:
        """IBM PS/2 hardware interface reference, keyboard and auxiliary device controller, 'commands'."""
        state = self.state
        if 0x20 <= command <= 0x3F:
            self._reply(state.ram[command & 0x1F])
        elif 0x60 <= command <= 0x7F or command in (0xD1, 0xD2, 0xD3, 0xD4):
            state.expects = command
        elif command == 0xA7:
            state.ram[0] |= CTR_AUX_OFF
        elif command == 0xA8:
            state.ram[0] &= ~CTR_AUX_OFF
        elif command == 0xAD:
            state.ram[0] |= CTR_KBD_OFF
        elif command == 0xAE:
            state.ram[0] &= ~CTR_KBD_OFF
        elif command == 0xAA:
            state.status |= SYSTEM
            state.ram[0] |= CTR_SYSTEM
            self._reply(SELF_TEST_OK)
        elif command == 0xD0:
            self._reply(state.output | (OUT_KBD_FULL if state.status & OBF else 0))
        elif command in _REPLIES:
            self._reply(_REPLIES[command])
        elif command >= 0xF0 and not command & 1:
            # The low bits say which lines of the output port are pulsed low; bit 0 is the processor's reset.
            self.request_stop(StopReason(kind=RESET, detail=f"keyboard controller command {command:#x}"))

    def _data(self, command: int, value: int) -> None:
        state = self.state
        if 0x60 <= command <= 0x7F:
            state.ram[command & 0x1F] = value
            if command == 0x60:
                state.status = state.status & ~SYSTEM | value & CTR_SYSTEM
                self._update_irq()
        elif command == 0xD1:
            state.output = value & ~OUT_KBD_FULL
            if not value & OUT_NO_RESET:
                state.output |= OUT_NO_RESET  # a reset processor could not let go of the line itself
                self.request_stop(StopReason(kind=RESET, detail="keyboard controller output port"))
        elif command == 0xD2:
            self._reply(value)  # as if the keyboard had sent it
        elif command == 0xD3:
            self._reply(value)  # Linux wants it marked as mouse data, and so learns that there is no mouse
        elif command == 0xD4:
            self._reply(NO_ANSWER, AUX_DATA | TIMEOUT)
        else:
            state.ram[0] &= ~CTR_KBD_OFF  # sending to the keyboard switches it on
            self._reply(NO_ANSWER, TIMEOUT)

    def _reply(self, value: int, flags: int = 0) -> None:
        """Fills the output buffer. What was in it and not read yet is lost: a new answer is a new edge."""
        state = self.state
        state.data = value
        state.status = state.status & ~(AUX_DATA | TIMEOUT) | OBF | flags
        self.irq.set(0)
        self._update_irq()

    def _update_irq(self) -> None:
        """IRQ 1 is "output buffer full", whoever filled it, unless it is the mouse's."""
        state = self.state
        self.irq.set(state.status & (OBF | AUX_DATA) == OBF and state.ram[0] & CTR_KBD_INT)


class CommandPortState(Record):
    """Nothing: the controller keeps it all, and resets itself."""


class CommandPort:
    """Port 0x64 of a controller: a range of its own on the bus, because 0x61 in between belongs to another device."""

    registers = "pyvmm.devices.i8042_regs:COMMAND_PORT"

    def __init__(self, controller: I8042) -> None:
        self.name = "i8042-command"
        self.controller = controller
        self.state = CommandPortState()

    def read(self, offset: int, size: int) -> int:
        return self.controller.read(COMMAND, size)

    def write(self, offset: int, size: int, value: int) -> None:
        self.controller.write(COMMAND, size, value)

    def reset(self) -> None:
        pass
