"""Network cards from a configuration: addresses, features, names, and mistakes; without a machine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pyvmm.backends.net.backend import Wire
from pyvmm.config import DeviceConfig
from pyvmm.devices.virtio import net_features as f
from pyvmm.errors import ConfigError
from pyvmm.ioloop import GuestClock
from pyvmm.memory import GuestMemory
from pyvmm.nics import Nics
from tests.support.fakes import FakeTime
from tests.support.net_driver import FakeWire
from tests.support.ring import FakeLoop


def nics(*wires: Wire) -> Nics:
    loop: Any = FakeLoop()
    loop.make_timer = FakeTime().make_timer
    clock = GuestClock(loop)
    named = {wire.name: wire for wire in wires}
    machine: Any = SimpleNamespace(memory=GuestMemory(1 << 20), loop=loop, clock=clock, netdevs=named, coalesced=None)
    return Nics(machine)


def device(name: str, **options: object) -> DeviceConfig:
    return DeviceConfig(name=name, options=tuple((key, str(value)) for key, value in options.items()))


def test_addresses_go_on_from_qemu_s() -> None:
    found = nics()
    assert found.virtio_net("a", device("virtio-net-pci")).mac.hex(":") == "52:54:00:12:34:56"
    found.e1000("b", device("e1000", mac="2-0-0-0-0-A"))
    assert found.virtio_net("c", device("virtio-net-device")).mac.hex(":") == "52:54:00:12:34:58"
    assert found.cards["b"].mac.eeprom.state.words[:3] == [2, 0, 0xA00]  # type: ignore[union-attr]


def test_options_of_virtio_net() -> None:
    wire = FakeWire(offload=True)
    card = nics(wire).virtio_net(
        "a", device("virtio-net-pci", netdev="wire", host_mtu=9000, rx_queue_size=1024, tx_queue_size=64, ctrl_vq="off", guest_tso4="off")
    )
    assert card.queue_sizes == (1024, 64)
    assert card.mtu == 9000 and card.features & f.MTU
    assert not card.features & (f.CTRL_VQ | f.CTRL_RX | f.GUEST_TSO4)
    assert card.features & f.GUEST_TSO6


def test_cards_are_found_by_their_name_and_their_wire_s() -> None:
    wire = FakeWire()
    found = nics(wire)
    card = found.e1000("left", device("e1000", netdev="wire"))
    assert found.find("left") is found.find("wire") is card
    assert found.find("right") is None


def test_wires_are_attached_and_let_go() -> None:
    class Plug(FakeWire):
        nic: Any = None

        def attach(self, loop: Any, nic: Any) -> None:
            self.nic = nic

        def detach(self) -> None:
            self.nic = None

    wire = Plug()
    found = nics(wire)
    card = found.virtio_net("a", device("virtio-net-pci", netdev="wire"))
    found.attach()
    assert wire.nic is card
    found.detach()
    assert wire.nic is None


def test_a_wire_has_one_card() -> None:
    found = nics(FakeWire())
    found.e1000("a", device("e1000", netdev="wire"))
    with pytest.raises(ConfigError, match="another card"):
        found.virtio_net("b", device("virtio-net-pci", netdev="wire"))


def test_tracing_begins_and_ends() -> None:
    found = nics(FakeWire())
    cards = (found.e1000("a", device("e1000")).mac.transmitter, found.virtio_net("b", device("virtio-net-pci", netdev="wire")))
    before = [set(vars(card)) for card in cards]
    found.trace(lambda text: None)
    assert [set(vars(card)) for card in cards] != before
    found.untrace()
    assert [set(vars(card)) for card in cards] == before
