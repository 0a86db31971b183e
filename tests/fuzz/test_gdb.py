"""A hostile or broken gdb: any bytes, packets that are nearly right, in any order, while the guest runs or has ended.

What must hold: every packet gets exactly one well-formed reply of bounded length (a resume at the latest when the guest stops; none for
``k``), the server's bookkeeping stays bounded, no exception, and the session still works in the end. Seeds are fixed.
PYVMM_FUZZ multiplies the packets: 20 makes 100,000.
"""

from __future__ import annotations

import os
import random
import re

import pytest

from pyvmm.observe.gdb import framing, target
from pyvmm.observe.gdb.registers import AMD64
from pyvmm.observe.gdb.target import StopEvent, TargetError
from tests.support.gdb_client import Client
from tests.support.gdb_target import FakeTarget

PACKETS = 1250 * int(os.environ.get("PYVMM_FUZZ", "1"))
SEEDS = range(4)
REPLY = re.compile(rb"(?:OK|E[0-9a-f]{2}|E\..*|[TSWX].*|[0-9a-fx]*|QC.*|[ml].*|O[0-9a-f]*|PacketSize.*|vCont.*|1)\Z", re.DOTALL)
_WORDS = AMD64.registers
EXAMPLES = [
    b"qSupported:multiprocess+;swbreak+;hwbreak+;xmlRegisters=i386", b"QStartNoAckMode", b"vMustReplyEmpty", b"?", b"!", b"g", b"p10",
    b"G" + b"00" * (sum(each.bits for each in _WORDS) // 8), b"P0=1122334455667788", b"m1000,10", b"M3000,4:01020304", b"X3000,3:}\x03ab",
    b"c", b"s", b"C05", b"S05;1000", b"vCont?", b"vCont;c", b"vCont;s:1;c", b"vCont;s:p1.1", b"vCont;r1000,1010:1", b"vCont;C05:2",
    b"Hg0", b"Hg1", b"Hc-1", b"Hgp1.-1", b"T1", b"qC", b"qfThreadInfo", b"qsThreadInfo", b"qThreadExtraInfo,1", b"qAttached:1", b"qOffsets",
    b"qTStatus", b"qSymbol::", b"Z0,1004,1", b"z0,1004,1", b"Z1,1004,1", b"Z2,2000,8", b"Z3,2000,4", b"Z4,2000,1", b"z2,2000,8",
    b"qXfer:features:read:target.xml:0,fff", b"qXfer:threads:read::0,fff", b"qRcmd,68656c70", b"bs", b"bc", b"D", b"D;1", b"vAttach;1",
    b"vKill;1", b"qGetTLSAddr:1,2,3", b"vFile:setfs:0", b"QNonStop:1", b"R00", b"k",
]  # fmt: skip
PIECES = [
    b"",
    b"-1",
    b"0",
    b"1",
    b"ff",
    b"ffffffffffffffff",
    b"10000000000000000",
    b",",
    b";",
    b":",
    b"=",
    b"}",
    b"*",
    b"_",
    b" ",
    b"p",
    b"x",
    b"\0",
    b"\xff",
]


class Erratic(FakeTarget):
    """Refuses now and then; stops later, when ``stop`` is called, or never mind."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.rng = rng
        self.waiting: list[target.Stopped] = []
        self.resumed = False
        self.commands: list[target.Told] = []

    def _moody(self) -> None:
        assert not self.resumed
        if self.rng.random() < 0.02:
            raise TargetError("not\nnow: \x00#$}*")

    def read_registers(self, vcpu: int) -> dict[str, int]:
        self._moody()
        return super().read_registers(vcpu)

    def describe(self, vcpu: int) -> str:
        self._moody()
        return super().describe(vcpu) + self.rng.choice(("", "\0<&>\ud800"))

    def resume(self, actions: dict[int, str], stopped: target.Stopped) -> None:
        self._moody()
        assert actions and all(0 <= vcpu < 2 for vcpu in actions)
        self.waiting.append(stopped)
        self.resumed = True
        if self.rng.random() < 0.3:
            self.stop()

    def detach(self) -> None:
        self.resumed = False
        super().detach()

    def kill(self) -> None:
        self.resumed = False
        super().kill()

    def monitor(self, command: str, told: target.Told) -> None:
        self._moody()
        self.commands.append(told)
        if self.rng.random() < 0.3:
            told("at once\n")

    def interrupt(self) -> None:
        for told in self.commands[-2:]:
            told("done\n")
        del self.commands[:-4]
        self.stop()

    def read_memory(self, vcpu: int, address: int, length: int) -> bytes:
        self._moody()
        return super().read_memory(vcpu, address, length)

    def write_memory(self, vcpu: int, address: int, data: bytes) -> None:
        self._moody()
        super().write_memory(vcpu, address, data)

    def write_registers(self, vcpu: int, values: dict[str, int]) -> None:
        self._moody()
        super().write_registers(vcpu, values)

    def insert_breakpoint(self, kind: str, address: int, length: int) -> None:
        self._moody()
        super().insert_breakpoint(kind, address, length)

    def attach(self, say: target.Say) -> StopEvent:
        self._moody()
        return super().attach(say)

    def stop(self) -> None:
        """Some stop, told to some of those who have ever waited."""
        reasons = (*target.BREAKPOINTS, target.STEPPED, target.INTERRUPTED, target.EVENT, target.CRASHED, target.HISTORY_END)
        rare = (target.EXITED, target.KILLED)
        reason = self.rng.choice(rare if self.rng.random() < 0.01 else reasons)
        event = StopEvent(
            reason=reason, vcpu=self.rng.randrange(2), address=self.rng.getrandbits(64), value=self.rng.getrandbits(16), text="why"
        )
        if reason in rare and self.waiting:
            self._ended = event
        self.resumed = False
        for stopped in self.waiting[-2:]:
            stopped(event)
        del self.waiting[:-4]


def _mutated(rng: random.Random) -> bytes:
    packet = rng.choice(EXAMPLES)
    for _ in range(rng.choice((0, 0, 1, 1, 2, 4))):
        at, kind = rng.randrange(len(packet) + 1), rng.random()
        if kind < 0.3:
            packet = packet[:at] + rng.choice(PIECES) + packet[at:]
        elif kind < 0.5:
            packet = packet[:at] + rng.choice(PIECES) + packet[at + rng.randrange(8) :]
        elif kind < 0.7:
            packet = packet[:at] + rng.randbytes(rng.randrange(4)) + packet[at + 1 :]
        elif kind < 0.8:
            packet = packet[:at]
        elif kind < 0.9:
            packet = packet[:at] + rng.choice(EXAMPLES)
        else:
            packet = packet[:at] + rng.randbytes(1) * rng.choice((16, 300, 20_000)) + packet[at:]
    return packet.replace(b"$", b"").replace(b"#", b"")


@pytest.mark.parametrize("seed", SEEDS)
def test_packets_that_are_nearly_right(seed: int) -> None:
    rng = random.Random(seed)
    fake = Erratic(rng)
    fake.log = []
    client = _connected(fake)
    for _ in range(PACKETS):
        packet = _mutated(rng)
        running = client.session.running
        client.send(packet)
        if client.session.commanded:  # monitor: answered when it is done, which Ctrl-C hastens
            client.session.feed(b"\x03")
            client.pump()
        replies = client.replies()
        final = [each for each in replies if each[:1] != b"O" or each == b"OK"]
        started = client.session.running and not running
        expected = 0 if started or packet[:1] == b"R" else 1
        assert len(final) == expected, (packet[:100], replies)
        _check(replies)
        if rng.random() < 0.2:
            client.session.feed(b"\x03")
        if rng.random() < 0.2:
            fake.stop()
        running = client.session.running
        client.pump()
        replies = client.replies()
        final = [each for each in replies if each[:1] != b"O"]
        assert len(final) == (1 if running and not client.session.running else 0), replies
        _check(replies)
        assert len(client.session.breakpoints) <= 4096 and (not client.session.attached or client.session.breakpoints == fake.breakpoints)
        assert not client.session.failures, client.session.failures
        del fake.log[:]
        if client.session.over or (not client.session.attached and rng.random() < 0.1):
            client.session.close()
            fake._ended = None
            fake.breakpoints.clear()
            client = _connected(fake)
    client.session.close()
    assert _connected(FakeTarget()).ask(b"qC") == b"QC1"


def _connected(fake: FakeTarget) -> Client:
    return Client(fake)


def _check(replies: list[bytes]) -> None:
    for reply in replies:
        assert len(reply) <= framing.PACKET_SIZE and REPLY.match(reply), reply[:200]


@pytest.mark.parametrize("seed", SEEDS)
def test_any_bytes(seed: int) -> None:
    rng = random.Random(seed)
    fake = Erratic(rng)
    client = Client(fake, no_ack=False)
    for _ in range(PACKETS):
        kind = rng.random()
        if kind < 0.4:
            data = rng.randbytes(rng.randrange(40))
        elif kind < 0.7:
            data = bytes(rng.choices(b"$#+-}*\x03gmMcsHZz0,:;1", k=rng.randrange(60)))
        else:
            data = bytearray(framing.frame(_mutated(rng)))
            data[rng.randrange(len(data))] ^= rng.choice((0, 1 << rng.randrange(8)))
        client.session.feed(bytes(data))
        client.pump()
        client.wire.clear()
        assert not client.session.failures, (data, client.session.failures)
        if client.session.over:
            client = Client(fake, no_ack=False)
    assert len(client.session._receiver._payload) <= framing.PACKET_SIZE
