"""What all backends share: a machine that is gone without a word, and errors that leave nothing open."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from pyvmm.backends.net.backend import NetCounters, open_netdev, open_netdevs
from pyvmm.backends.net.slirp_abi import load
from pyvmm.config import NetConfig
from pyvmm.errors import ConfigError
from tests.support.network import FakeNic, frame, running_loop
from tests.support.process import descriptors


def config(kind: str, tmp_path: Path) -> NetConfig:
    options = {"stream": (("addr.type", "unix"), ("addr.path", str(tmp_path / "s")), ("server", "on"))}
    return NetConfig(id="n0", kind=kind, options=options.get(kind, ()), pcap=str(tmp_path / "dump"))


@pytest.mark.parametrize("kind", ["user", "stream", "hubport", "none"])
def test_one_loop_after_another(kind: str, tmp_path: Path) -> None:
    if kind == "user" and load() is None:
        pytest.skip("libslirp.so.0 is not installed (Debian: libslirp0)")
    before = descriptors()
    wire = open_netdev(config(kind, tmp_path))
    for detach in (True, False, False):  # a machine that crashed does not say good-bye
        with running_loop() as loop, socket.socket(socket.AF_UNIX) as peer:
            wire.attach(loop, FakeNic())
            if kind == "stream":
                peer.connect(str(tmp_path / "s"))
                assert loop.until(lambda: wire.link)
            wire.set_offload(15)
            wire.send(frame(1))
            wire.resume()
            loop.turn()
            if detach:
                wire.detach()
                wire.send(frame(2))
                wire.resume()
    with running_loop() as loop:
        wire.attach(loop, FakeNic())
        loop.turn()
        wire.close()
        wire.close()
        loop.turn()
    assert wire.counters.sent + wire.counters.dropped_tx == 4
    assert descriptors() == before


def test_a_dump_that_cannot_be_had_closes_the_wire(tmp_path: Path) -> None:
    path = tmp_path / "s"
    options = (("addr.type", "unix"), ("addr.path", str(path)), ("server", "on"))
    with pytest.raises(ConfigError):
        open_netdevs([NetConfig(id="n", kind="stream", options=options, pcap="/no/such/dump")])
    assert not path.exists()


def test_counters_are_plain_data() -> None:
    assert dict(NetCounters(sent=3)) == {"sent": 3, "received": 0, "dropped_tx": 0, "dropped_rx": 0, "malformed": 0, "paused": 0}
