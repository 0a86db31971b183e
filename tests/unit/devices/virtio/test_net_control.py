"""Which frames virtio-net lets through, and the commands that say so."""

from __future__ import annotations

import pytest

from pyvmm.devices.virtio import net_features as f
from pyvmm.devices.virtio.net_control import TABLE_MAX, Filter, NetState, execute
from tests.support.packets import MAC, PEER

ALL = f.SOFTWARE | f.WIRE
BROADCAST = b"\xff" * 6
GROUP = b"\x01\x00\x5e\x00\x00\x01"
GROUP6 = b"\x33\x33\x00\x00\x00\x01"
STRANGER = b"\x02\x99\x99\x99\x99\x99"


def passing(state: NetState, *targets: bytes, tag: bytes = b"", features: int = ALL & ~f.CTRL_VLAN) -> list[bool]:
    each = Filter()
    each.configure(state, features)
    return [each.open or each.accepts(memoryview(target + PEER + tag + b"\x08\x00" + bytes(50))) for target in targets]


def table(*addresses: bytes, count: int | None = None) -> bytes:
    return (len(addresses) if count is None else count).to_bytes(4, "little") + b"".join(addresses)


def test_a_new_card_sees_everything() -> None:
    assert passing(NetState(mac=MAC), MAC, BROADCAST, GROUP, STRANGER) == [True] * 4


@pytest.mark.parametrize(
    ("command", "seen"),
    [
        ((), [True, True, False, False]),
        ((1,), [True, True, True, False]),
        ((2,), [True, True, False, True]),
        ((1, 3), [True, True, False, False]),
        ((2, 4), [False, True, False, False]),
        ((5,), [True, False, False, False]),
        ((1, 5), [True, False, True, False]),
        ((0,), [True, True, True, True]),
    ],
    ids=str,
)
def test_receive_modes(command: tuple[int, ...], seen: list[bool]) -> None:
    state = NetState(mac=MAC)
    assert execute(state, ALL, b"\0\0\0")
    for number in command:
        assert execute(state, ALL, bytes((0, number, 1)))
    assert passing(state, MAC, BROADCAST, GROUP, STRANGER) == seen


def test_address_tables() -> None:
    state = NetState(mac=MAC, promiscuous=False)
    assert execute(state, ALL, b"\1\0" + table(STRANGER) + table(GROUP))
    assert passing(state, MAC, BROADCAST, GROUP, GROUP6, STRANGER, PEER) == [True, True, True, False, True, False]
    assert execute(state, ALL, b"\1\0" + table() + table(GROUP6))
    assert passing(state, GROUP, GROUP6, STRANGER) == [False, True, False]


def test_too_many_addresses_mean_all() -> None:
    many = [b"\x01\x00\x5e\x01" + n.to_bytes(2, "big") for n in range(TABLE_MAX + 1)]
    state = NetState(mac=MAC, promiscuous=False)
    assert execute(state, ALL, b"\1\0" + table() + table(*many))
    assert passing(state, GROUP, STRANGER) == [True, False]
    assert not state.multicast
    assert execute(state, ALL, b"\1\0" + table(*many) + table())
    assert passing(state, GROUP, STRANGER) == [False, True]


@pytest.mark.parametrize(
    "data",
    [b"", table(), table(count=1) + table(), table(count=0xFFFF_FFFF), table() + table(GROUP, count=2), table() + table() + b"x"],
    ids=len,
)
def test_tables_that_do_not_fit_change_nothing(data: bytes) -> None:
    state = NetState(mac=MAC, unicast=(STRANGER,))
    assert not execute(state, ALL, b"\1\0" + data)
    assert state.unicast == (STRANGER,)


def test_vlans() -> None:
    state = NetState(mac=MAC, promiscuous=False)
    tag = b"\x81\x00\x20\x07"
    assert passing(state, MAC, tag=tag) == [True], "without CTRL_VLAN nothing is filtered"
    assert passing(state, MAC, tag=tag, features=ALL) == [False]
    assert execute(state, ALL, b"\2\0\x07\x00")
    assert passing(state, MAC, tag=tag, features=ALL) == [True]
    assert execute(state, ALL, b"\2\1\x07\x00")
    assert passing(state, MAC, tag=tag, features=ALL) == [False]
    assert not execute(state, ALL, b"\2\0\x00\x10")
    assert not Filter().accepts(MAC + PEER + b"\x81\x00")


def test_each_command_needs_its_feature_and_its_data() -> None:
    commands = {
        b"\0\0\0": f.CTRL_RX, b"\0\2\0": f.CTRL_RX_EXTRA, b"\1\0" + table() + table(): f.CTRL_RX, b"\1\1" + PEER: f.CTRL_MAC_ADDR,
        b"\2\0\1\0": f.CTRL_VLAN, b"\3\0": f.GUEST_ANNOUNCE, b"\5\0" + bytes(8): f.CTRL_GUEST_OFFLOADS,
    }  # fmt: skip
    for command, feature in commands.items():
        assert execute(NetState(mac=MAC), ALL, command), command
        assert not execute(NetState(mac=MAC), ALL & ~feature, command), command
        if len(command) > 2:
            state = NetState(mac=MAC)
            assert not execute(state, ALL, command[:-1])
            assert state == NetState(mac=MAC)
    for unknown in (b"", b"\0", b"\0\6\0", b"\1\2", b"\4\0\1\0", b"\xff\xff\xff\xff"):
        assert not execute(NetState(mac=MAC), ALL, unknown)


def test_features_that_need_each_other_go_together() -> None:
    assert f.consistent(ALL) == ALL
    assert not f.consistent(ALL & ~f.CTRL_VQ) & (f.CTRL_RX | f.CTRL_RX_EXTRA | f.GUEST_ANNOUNCE)
    assert not f.consistent(ALL & ~f.CSUM) & f.HOST_ECN
