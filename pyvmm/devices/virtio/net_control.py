"""What the control queue of virtio-net sets: which frames the driver wants to see (Virtio specification 1.2, 5.1.6.5)."""

from __future__ import annotations

from pyvmm.devices.virtio.net_features import (
    CTRL_GUEST_OFFLOADS,
    CTRL_MAC_ADDR,
    CTRL_RX,
    CTRL_RX_EXTRA,
    CTRL_VLAN,
    GUEST_ANNOUNCE,
    GUEST_CSUM,
    GUEST_ECN,
    GUEST_TSO4,
    GUEST_TSO6,
)
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    Frame = bytes | bytearray | memoryview

# class, command
RX_PROMISC, RX_ALLMULTI, RX_ALLUNI, RX_NOMULTI, RX_NOUNI, RX_NOBCAST = ((0, command) for command in range(6))
MAC_TABLE_SET, MAC_ADDR_SET = (1, 0), (1, 1)
VLAN_ADD, VLAN_DEL = (2, 0), (2, 1)
ANNOUNCE_ACK = (3, 0)
GUEST_OFFLOADS_SET = (5, 0)

STATUS_LINK_UP, STATUS_ANNOUNCE = 1, 2  # 5.1.4
TABLE_MAX = 64  # addresses of each kind; more of them count as "all"
COMMAND_MAX = 1 << 15  # bytes; 5000 addresses
BROADCAST = b"\xff" * 6
_VLAN = b"\x81\x00"
_MODES = {
    RX_PROMISC: "promiscuous", RX_ALLMULTI: "all_multicast", RX_ALLUNI: "all_unicast",
    RX_NOMULTI: "no_multicast", RX_NOUNI: "no_unicast", RX_NOBCAST: "no_broadcast",
}  # fmt: skip


class NetState(Record):
    """What a snapshot holds of a virtio-net device, beyond registers and rings.

    Fields:
        mac: the address now.
        promiscuous ... no_broadcast: the receive mode. A driver that never says anything sees everything.
        unicast, multicast: more addresses to receive.
        overflow: bit 0, 1: there were too many unicast, multicast addresses: all are taken.
        vlans: bitmap by VLAN id, with CTRL_VLAN.
        offloads: what received frames may leave undone: GUEST_* features; -1 before a driver has chosen.
        announce: the driver is asked to make itself known to the network.
    """

    mac: bytes
    promiscuous: bool = True
    all_multicast: bool = False
    all_unicast: bool = False
    no_multicast: bool = False
    no_unicast: bool = False
    no_broadcast: bool = False
    unicast: tuple[bytes, ...] = ()
    multicast: tuple[bytes, ...] = ()
    overflow: int = 0
    vlans: int = 0
    offloads: int = -1
    announce: bool = False


class Filter:
    """Which received frames are for the driver. ``configure`` after every change of the state.

    Attributes:
        open: every frame is.
    """

    def __init__(self) -> None:
        self.open = True
        self._exact: set[bytes] = set()
        self._multicast = self._unicast = False
        self._vlans = -1

    def configure(self, state: NetState, features: int) -> None:
        """Takes the receive mode from ``state``."""
        self.open = state.promiscuous
        self._exact = set()
        self._multicast = self._unicast = False
        if not state.no_unicast:
            self._unicast = state.all_unicast or bool(state.overflow & 1)
            self._exact |= {state.mac, *state.unicast}
        if not state.no_multicast:
            self._multicast = state.all_multicast or bool(state.overflow & 2)
            self._exact |= set(state.multicast)
        self._exact.discard(BROADCAST)
        if not state.no_broadcast:
            self._exact.add(BROADCAST)
        self._vlans = state.vlans if features & CTRL_VLAN else -1

    def accepts(self, frame: Frame) -> bool:
        """Whether a frame of at least 14 bytes is wanted; asked unless ``open``."""
        if frame[12:14] == _VLAN and not (len(frame) >= 16 and self._vlans >> ((frame[14] & 0xF) << 8 | frame[15]) & 1):
            return False
        target = bytes(frame[:6])
        if target in self._exact:
            return True
        if target[0] & 1:
            return self._multicast and target != BROADCAST
        return self._unicast


def execute(state: NetState, features: int, command: bytes) -> bool:
    """One command: class, number, data. False: not understood, nothing has changed."""
    number = (command[0], command[1]) if len(command) >= 2 else (255, 255)
    data = command[2:]
    if number in _MODES:
        if len(data) < 1 or not features & (CTRL_RX if number in (RX_PROMISC, RX_ALLMULTI) else CTRL_RX_EXTRA):
            return False
        setattr(state, _MODES[number], data[0] != 0)
        return True
    if number == MAC_TABLE_SET:
        return bool(features & CTRL_RX) and _set_table(state, data)
    if number == MAC_ADDR_SET:
        if not features & CTRL_MAC_ADDR or len(data) != 6:
            return False
        state.mac = data
        return True
    if number in (VLAN_ADD, VLAN_DEL):
        tag = int.from_bytes(data[:2], "little")
        if not features & CTRL_VLAN or len(data) < 2 or tag > 0xFFF:
            return False
        state.vlans = state.vlans | 1 << tag if number == VLAN_ADD else state.vlans & ~(1 << tag)
        return True
    if number == ANNOUNCE_ACK:
        if not features & GUEST_ANNOUNCE:
            return False
        state.announce = False
        return True
    if number == GUEST_OFFLOADS_SET:
        wanted = int.from_bytes(data[:8], "little")
        possible = features & (GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN)
        if not features & CTRL_GUEST_OFFLOADS or len(data) < 8 or wanted & ~possible:
            return False
        state.offloads = wanted
        return True
    return False


def _set_table(state: NetState, data: bytes) -> bool:
    """Two tables: a count in 4 bytes, and addresses; unicast, then multicast."""
    tables: list[tuple[bytes, ...]] = []
    overflow = 0
    for kind in (1, 2):
        count = int.from_bytes(data[:4], "little")
        if len(data) < 4 or 6 * count > len(data) - 4:
            return False
        if count > TABLE_MAX:
            overflow |= kind
            tables.append(())
        else:
            tables.append(tuple(data[4 + 6 * index : 10 + 6 * index] for index in range(count)))
        data = data[4 + 6 * count :]
    if data:
        return False
    state.unicast, state.multicast, state.overflow = tables[0], tables[1], overflow
    return True
