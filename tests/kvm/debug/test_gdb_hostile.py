"""A careless gdb at a real machine: registers, memory and breakpoints at random, in any order. Each packet is answered, the guest may die,
pyvmm does not; fixed seeds. (The protocol itself is fuzzed in tests/fuzz/test_gdb.py.)"""

from __future__ import annotations

import queue
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm.observe.debug.forward import Forward
from pyvmm.observe.debug.gdbtarget import GdbTarget
from pyvmm.observe.debug.subject import Stop
from pyvmm.observe.gdb import framing
from pyvmm.observe.gdb.registers import AMD64
from pyvmm.observe.gdb.session import RUNNING, STOPPED, Session
from tests.support.symbolfile import BASE, COUNTER, WORK, counting_guest
from tests.support.vm import flat

pytestmark = pytest.mark.kvm
PACKETS = 150
_PATIENCE = 50  # steps
ADDRESSES = (0, BASE, WORK, WORK + 1, COUNTER, COUNTER + 3, 0xFFF, 0xFFFF_FFFF, 0xB8000, 0xFFFF_8000_0000_0000, (1 << 64) - 1)
VALUES = (0, 1, BASE, WORK, COUNTER, 0x8005_0033, 0x8000_0000, 0xD01, 0x1234_5678_9ABC_DEF0, (1 << 64) - 1)


class OneMachine:
    """The holder of a machine that is not followed by another."""

    reversible = False
    vcpus = 1

    def __init__(self, found: Forward) -> None:
        self.found = found

    def take(self) -> Forward:
        return self.found

    def release(self) -> None: ...

    def kill(self) -> None: ...

    def following(self, stop: Stop) -> None:
        self.found.close()

    def monitor(self, command: str) -> str:
        return ""


def packets(source: random.Random) -> list[bytes]:
    """One round; most are right, what they say is not."""
    at, length, value = source.choice(ADDRESSES), source.choice((0, 1, 4, 8, 16, 5000)), source.choice(VALUES)
    kind, vcpu = source.randrange(5), source.choice((1, 1, 1, 2))
    register = source.randrange(len(AMD64.registers))
    width = AMD64.registers[register].bits // 8
    return [
        source.choice(
            (
                b"g", b"p%x" % register, b"P%x=" % register + (value & (1 << 8 * width) - 1).to_bytes(width, "little").hex().encode(),
                b"m%x,%x" % (at, length), b"M%x,%x:" % (at, min(length, 16)) + source.randbytes(min(length, 16)).hex().encode(),
                b"Z%d,%x,%x" % (kind, at, length), b"z%d,%x,%x" % (kind, at, length), b"Hg%x" % vcpu, b"T%x" % vcpu, b"?",
                b"s", b"c", b"vCont;s:1;c", b"vCont;c", b"vCont;r%x,%x:1" % (at, at + 32), b"bs", b"qThreadExtraInfo,1",
            )
        )
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_whatever_gdb_wants(seed: int, tmp_path: Path) -> None:
    source = random.Random(seed)
    path = tmp_path / "guest.elf"
    path.write_bytes(counting_guest())
    posted: queue.Queue[Callable[[], None]] = queue.Queue()
    sent = bytearray()
    with flat(counting_guest(), tmp_path, fmt="elf", coalesce=False, memory=2 << 20) as (machine, _):
        found = Forward(machine)
        thread = threading.Thread(target=machine.run, args=(120.0,))
        thread.start()
        session = Session(GdbTarget(OneMachine(found)), sent.extend, posted.put)
        try:
            session.open()
            assert session.state == STOPPED and not session.refusal
            for _ in range(PACKETS):
                for packet in packets(source):
                    del sent[:]
                    session.feed(framing.frame(packet))
                    steps = 0
                    while session.state == RUNNING:
                        try:
                            posted.get(timeout=0.02)()
                            steps += 1
                        except queue.Empty:
                            steps = _PATIENCE
                        if steps >= _PATIENCE:  # a range to step through may have a loop in it, which ends only by Ctrl-C
                            session.feed(b"\x03")
                    assert b"$" in sent, packet
                if session.state != STOPPED:
                    break  # the guest has died of it
            assert not session.failures
        finally:
            session.close()
            found.close()
            machine.stop()
            thread.join(30)
            assert not thread.is_alive()
