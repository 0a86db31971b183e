"""Which frames the MAC takes from the wire (SDM 3.2.1, 13.5): exact addresses, broadcast, multicast hash, promiscuous, VLAN.

What registers say is worked out when they are written; a frame costs a set look-up.
"""

from __future__ import annotations

from pyvmm.devices.e1000.constants import (
    ADDRESSES,
    FCAH,
    FCAL,
    FCT,
    MTA,
    RA,
    RAH_VALID,
    RCTL,
    RCTL_BAM,
    RCTL_CFI,
    RCTL_CFIEN,
    RCTL_MO_SHIFT,
    RCTL_MPE,
    RCTL_PMCF,
    RCTL_UPE,
    RCTL_VFE,
    VET,
    VFTA,
)

_BROADCAST = b"\xff" * 6
_HASH_SHIFT = (4, 3, 2, 0)  # RCTL.MO: which 12 of the last 16 address bits (13.4.22, table 13-68)
_ADDRESS_SELECT = 3 << 16  # RAH: 0 is the destination address


class Filter:
    """The receive filter. Call ``configure`` after RCTL, RA, VET or FC* were written."""

    def __init__(self, regs: dict[int, int]) -> None:
        self.regs = regs
        self.exact: frozenset[bytes] = frozenset()
        self.all_unicast = self.all_multicast = self.vlans = self.control_frames = False
        self.vet = self.pause_address = self.pause_type = b""
        self.hash_shift = 0

    def configure(self) -> None:
        """Takes over what the registers say."""
        regs = self.regs
        rctl = regs[RCTL]
        exact = set()
        for at in range(RA, RA + 8 * ADDRESSES, 8):
            high = regs[at + 4]
            if high & RAH_VALID and not high & _ADDRESS_SELECT:
                exact.add((regs[at] | (high & 0xFFFF) << 32).to_bytes(6, "little"))
        if rctl & RCTL_BAM:
            exact.add(_BROADCAST)
        self.exact = frozenset(exact)
        self.all_unicast, self.all_multicast = bool(rctl & RCTL_UPE), bool(rctl & RCTL_MPE)
        self.vlans, self.control_frames = bool(rctl & RCTL_VFE), bool(rctl & RCTL_PMCF)
        self.hash_shift = _HASH_SHIFT[rctl >> RCTL_MO_SHIFT & 3]
        self.vet = regs[VET].to_bytes(2, "big")
        self.pause_address = (regs[FCAL] | (regs[FCAH] & 0xFFFF) << 32).to_bytes(6, "little")
        self.pause_type = regs[FCT].to_bytes(2, "big")

    def accepts(self, frame: bytes) -> bool:
        """Whether the guest gets this frame of at least 14 bytes."""
        address = frame[:6]
        if address not in self.exact:
            if frame[0] & 1:
                if not self.all_multicast and not self._hashed(frame):
                    return False
            elif not self.all_unicast:
                return False
        if self.vlans and frame[12:14] == self.vet and not self._vlan(frame):
            return False
        return not (address == self.pause_address and not self.control_frames and self.is_pause(frame))

    def is_pause(self, frame: bytes) -> bool:
        """An IEEE 802.3 31B PAUSE frame, which ends in the MAC."""
        return frame[12:14] == self.pause_type and frame[:6] == self.pause_address and frame[14:16] == b"\0\1"

    def _hashed(self, frame: bytes) -> bool:
        number = (frame[5] << 8 | frame[4]) >> self.hash_shift & 0xFFF
        return bool(self.regs[MTA + 4 * (number >> 5)] >> (number & 31) & 1)

    def _vlan(self, frame: bytes) -> bool:
        if len(frame) < 16:
            return False
        tag = frame[14] << 8 | frame[15]
        rctl = self.regs[RCTL]
        if rctl & RCTL_CFIEN and bool(tag & 0x1000) != bool(rctl & RCTL_CFI):
            return False
        return bool(self.regs[VFTA + 4 * (tag >> 5 & 0x7F)] >> (tag & 31) & 1)
