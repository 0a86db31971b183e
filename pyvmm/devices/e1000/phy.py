"""The PHY behind MDIC: a Marvell M88E1011 at address 1 (SDM 13.4.7 and chapter 11; IEEE 802.3 clause 22).

The link partner can do everything and answers at once: an auto-negotiation is complete when its restart has been written.
"""

from __future__ import annotations

from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

ADDRESS = 1

# MDIC
_OP_WRITE, _OP_READ, READY, INTERRUPT, ERROR = 1, 2, 1 << 28, 1 << 29, 1 << 30

BMCR, BMSR, ID1, ID2, ANAR, ANLPAR, ANER, GCON, GSTATUS, EXTENDED = 0, 1, 2, 3, 4, 5, 6, 9, 10, 15
PSCR, PSSR, EPSCR = 16, 17, 20

BMCR_RESET, BMCR_LOOPBACK, BMCR_SPEED_LOW, BMCR_AUTONEG, BMCR_POWER_DOWN = 1 << 15, 1 << 14, 1 << 13, 1 << 12, 1 << 11
BMCR_ISOLATE, BMCR_RESTART, BMCR_FULL, BMCR_SPEED_HIGH = 1 << 10, 1 << 9, 1 << 8, 1 << 6
BMSR_LINK, BMSR_COMPLETE = 1 << 2, 1 << 5

SPEED_10, SPEED_100, SPEED_1000 = 0, 1, 2

_POWER_ON = [0] * 32
_POWER_ON[BMCR] = BMCR_AUTONEG | BMCR_FULL | BMCR_SPEED_HIGH
_POWER_ON[BMSR] = 0x7949  # what it can do; link and completion are added
_POWER_ON[ID1], _POWER_ON[ID2] = 0x0141, 0x0C20
_POWER_ON[ANAR] = 0x0DE1
_POWER_ON[GCON] = 0x0E00
_POWER_ON[EXTENDED] = 0x3000  # 1000BASE-T
_POWER_ON[PSCR] = 0x0360
_POWER_ON[EPSCR] = 0x0D60

_WRITABLE = {BMCR: 0xFFC0, ANAR: 0xFFFF, 7: 0xFFFF, GCON: 0xFFFF, PSCR: 0xFFFF, 18: 0xFFFF, EPSCR: 0xFFFF}
_WRITABLE.update((number, 0xFFFF) for number in range(22, 32))  # LEDs, and pages behind 29 and 30 that only remember

_ABILITIES = ((GCON, 1 << 9, SPEED_1000, True), (GCON, 1 << 8, SPEED_1000, False)) + tuple(
    (ANAR, bit, speed, full)
    for bit, speed, full in ((1 << 8, SPEED_100, True), (1 << 7, SPEED_100, False), (1 << 6, SPEED_10, True), (1 << 5, SPEED_10, False))
)  # best first (802.3 28B.3)


class PhyState(Record):
    """What a snapshot holds of the PHY.

    Fields:
        regs: 32 registers, 16 bits each.
        dropped: the link was down since BMSR was read last (its bit latches low).
        link, speed, full: what was negotiated, or forced.
    """

    regs: list[int] = list(_POWER_ON)
    dropped: bool = False
    link: bool = False
    speed: int = SPEED_1000
    full: bool = True


class Phy:
    """The PHY.

    Args:
        changed: told when link, speed or duplex may have changed; True: the link was interrupted or came up (LSC).
    """

    def __init__(self, changed: Callable[[bool], None]) -> None:
        self.changed = changed
        self.carrier = False
        self.state = PhyState()

    @property
    def loopback(self) -> bool:
        """Whether what is sent comes back."""
        return bool(self.state.regs[BMCR] & BMCR_LOOPBACK)

    def set_carrier(self, up: bool) -> None:
        """The cable has a partner at its other end, or none any more."""
        self.carrier = up
        self._settle(False)

    def mdic(self, value: int) -> int:
        """What MDIC reads after ``value`` was written: done at once."""
        number, done = value >> 16 & 0x1F, value & ~(READY | ERROR) & 0x7FFF_FFFF | READY
        if value >> 21 & 0x1F != ADDRESS:
            return done | ERROR
        if value >> 26 & 3 == _OP_READ:
            return done & ~0xFFFF | self.read(number)
        if value >> 26 & 3 == _OP_WRITE:
            self.write(number, value & 0xFFFF)
        return done

    def read(self, number: int) -> int:
        """A register."""
        state = self.state
        value = state.regs[number]
        if number == BMSR:
            if state.link:
                value |= BMSR_COMPLETE if state.regs[BMCR] & BMCR_AUTONEG else 0
                value |= 0 if state.dropped else BMSR_LINK
            state.dropped = not state.link
        elif number == ANLPAR:
            return 0x41E1 if state.link and state.regs[BMCR] & BMCR_AUTONEG else 0
        elif number == ANER:
            return 1 if state.link and state.regs[BMCR] & BMCR_AUTONEG else 0
        elif number == GSTATUS:
            return 0x3C00 if state.link else 0
        elif number == PSSR:
            return state.speed << 14 | state.full << 13 | (0x0C00 if state.link else 0)
        return value

    def write(self, number: int, value: int) -> None:
        """A register."""
        regs = self.state.regs
        regs[number] = regs[number] & ~_WRITABLE.get(number, 0) | value & _WRITABLE.get(number, 0)
        if number == BMCR:
            again = value & BMCR_RESET or value & BMCR_RESTART and value & BMCR_AUTONEG
            regs[BMCR] &= ~(BMCR_RESET | BMCR_RESTART)  # a software reset keeps the rest
            self._settle(bool(again))

    def reset(self) -> None:
        """CTRL.PHY_RST."""
        self.state = PhyState(link=self.state.link)
        self._settle(True)

    def power_on(self) -> None:
        """As if there had been nothing before."""
        self.state = PhyState()
        self._settle(False)

    def _settle(self, again: bool) -> None:
        """Works out the link; ``again``: it was given up before and built anew."""
        state = self.state
        bmcr = state.regs[BMCR]
        before = state.link
        link = self.carrier and not bmcr & (BMCR_POWER_DOWN | BMCR_ISOLATE)
        if bmcr & BMCR_AUTONEG:
            common = next((each for each in _ABILITIES if state.regs[each[0]] & each[1]), None)
            if common is None:
                link = False
            else:
                state.speed, state.full = common[2], common[3]
        else:
            high, low = bmcr & BMCR_SPEED_HIGH, bmcr & BMCR_SPEED_LOW
            state.speed, state.full = (SPEED_1000 if high else SPEED_100 if low else SPEED_10), bool(bmcr & BMCR_FULL)
        state.link = link
        state.dropped = state.dropped or not link or again and before
        self.changed(link != before or again and link)
