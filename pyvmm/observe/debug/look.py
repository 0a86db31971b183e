"""The state one looks at, small enough to keep for comparing at the next stop."""

from __future__ import annotations

from pyvmm.errors import PyvmmError
from pyvmm.observe.debug import registers
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.observe.debug.subject import Moment, Subject
    from pyvmm.observe.explain.layout import States


class Look(Record):
    """Registers and devices at one moment.

    Fields:
        vcpu: whose registers.
        at: when.
        registers: general registers, control registers, selectors.
        devices: their states.
        console: the last bytes printed.
    """

    vcpu: int
    at: Moment
    registers: dict[str, int] = {}
    devices: States = {}
    console: bytes = b""

    @classmethod
    def of(cls, subject: Subject, vcpu: int) -> Look:
        """Now. What cannot be had is left out: a crashed vCPU, a recording without."""
        found = cls(vcpu=vcpu, at=subject.stop.at)
        try:
            found.registers = registers.general(subject.regs(vcpu)) | registers.control(subject.sregs(vcpu))
            found.devices = subject.devices()
            found.console = subject.console()
        except PyvmmError:
            pass
        return found
