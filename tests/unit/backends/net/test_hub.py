"""A hub of two cards and of a card and the outside; and the cable that is not plugged in."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from pyvmm.backends.net.backend import Wire, close_netdevs, open_netdev, open_netdevs
from pyvmm.backends.net.hub import QUEUE, Hub, HubPort, Uplink
from pyvmm.config import NetConfig
from pyvmm.errors import ConfigError
from tests.support.network import FakeNic, Loop, frame, running_loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    with running_loop() as loop:
        yield loop


def port(name: str, **options: str) -> NetConfig:
    return NetConfig(id=name, kind="hubport", options=tuple(options.items()))


def test_frames_reach_the_other_ports_of_the_same_hub(loop: Loop) -> None:
    netdevs = open_netdevs([port("a", hubid="0"), port("b", hubid="0"), port("c", hubid="00"), port("d", hubid="1")])
    nics = {name: FakeNic() for name in netdevs}
    for name, netdev in netdevs.items():
        assert netdev.link and not netdev.offload
        netdev.attach(loop, nics[name])
    netdevs["a"].send(bytearray(frame(1)))
    assert {name: nic.frames for name, nic in nics.items()} == {"a": [], "b": [frame(1)], "c": [frame(1)], "d": []}
    close_netdevs(netdevs)


def test_a_card_without_buffers_gets_its_frames_later(loop: Loop) -> None:
    netdevs = open_netdevs([port("a"), port("b")])
    one, two = FakeNic(), FakeNic(room=1)
    netdevs["a"].attach(loop, one)
    netdevs["b"].attach(loop, two)
    for number in range(QUEUE + 11):
        netdevs["a"].send(frame(number))
    counters = netdevs["b"].counters
    assert (two.refused, counters.dropped_rx, counters.paused) == (1, 10, 1)
    two.room = None
    netdevs["b"].resume()
    assert loop.until(lambda: len(two.frames) == QUEUE + 1)
    assert two.frames == [frame(number) for number in range(QUEUE + 1)]
    close_netdevs(netdevs)


def test_a_hub_leads_outside(loop: Loop) -> None:
    outer = [NetConfig(id="x", kind="hubport", options=(("hubid", "7"),)), NetConfig(id="y", kind="hubport", options=(("hubid", "7"),))]
    netdevs = open_netdevs([*outer, port("a"), port("b"), port("up", netdev="x")])
    far, one, two = FakeNic(), FakeNic(), FakeNic()
    netdevs["y"].attach(loop, far)
    netdevs["y"].send(frame(9))  # nobody runs x yet
    netdevs["a"].attach(loop, one)
    netdevs["b"].attach(loop, two)
    netdevs["a"].send(frame(1))
    netdevs["y"].send(frame(2))
    assert (far.frames, one.frames, two.frames) == ([frame(1)], [frame(2)], [frame(1), frame(2)])
    netdevs["a"].detach()
    netdevs["y"].send(frame(3))
    assert two.frames[-1] == frame(3)
    netdevs["b"].detach()
    netdevs["y"].send(frame(4))
    assert netdevs["x"].counters.dropped_rx == 2
    close_netdevs(netdevs)


class Asked(Wire):
    """A netdev that notes what it is given, and when it is asked for its answers."""

    def __init__(self) -> None:
        super().__init__("asked")
        self.log: list[object] = []

    def send(self, frame: bytes | bytearray | memoryview, header: bytes | bytearray | memoryview | None = None) -> None:
        self.log.append(bytes(frame))

    def flush(self) -> None:
        self.log.append("flush")


def test_one_netdev_is_asked_for_its_answers_to_the_frames_of_another(loop: Loop) -> None:
    hub, here, there = Hub(), Asked(), Asked()
    one, _, card = Uplink("1", hub, here), Uplink("2", hub, there), HubPort("c", hub)
    card.attach(loop, FakeNic())
    one.receive(frame(1))  # not in a burst: no more comes that would bring the flush
    assert there.log == [frame(1), "flush"]
    one.burst(True)
    one.receive(frame(2))
    one.receive(frame(3))
    assert there.log[2:] == [frame(2), frame(3)]
    one.burst(False)
    assert there.log[4:] == ["flush"] and not here.log
    one.receive(frame(4))
    assert there.log[5:] == [frame(4), "flush"]
    card.close()


@pytest.mark.parametrize("seed", range(5))
def test_frames_add_up(seed: int, loop: Loop) -> None:
    chance = random.Random(seed)
    netdevs = open_netdevs([port("a"), port("b")])
    nics = [FakeNic(), FakeNic()]
    for netdev, nic in zip(netdevs.values(), nics, strict=True):
        netdev.attach(loop, nic)
    for _ in range(500):
        number = chance.randrange(2)
        list(netdevs.values())[number].send(chance.randbytes(chance.randrange(100)))
        nics[number].room = chance.choice((None, 0, 3))
        list(netdevs.values())[number].resume()
        if chance.random() < 0.02:
            loop.turn(0.001)
    for netdev, nic in zip(netdevs.values(), nics, strict=True):
        nic.room = None
        netdev.resume()
    loop.turn()
    a, b = (netdev.counters for netdev in netdevs.values())
    for here, there, nic in ((a, b, nics[1]), (b, a, nics[0])):
        assert here.sent == there.received + there.dropped_rx + there.malformed
        assert there.received == len(nic.frames)
    close_netdevs(netdevs)


@pytest.mark.parametrize(("options", "problem"), [({"hubid": "x"}, "give a number"), ({"netdev": "zz"}, "no netdev before this one")])
def test_mistakes_are_one_line(options: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        open_netdevs([port("a"), port("b", **options)])


def test_a_cable_that_is_not_plugged_in(loop: Loop) -> None:
    wire = open_netdev(NetConfig(id="n"))
    assert type(wire) is Wire and not wire.link
    wire.attach(loop, FakeNic())
    wire.send(frame(1))
    wire.set_offload(1)
    wire.resume()
    assert wire.counters.dropped_tx == 1
    wire.close()
