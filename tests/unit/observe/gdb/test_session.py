"""The session: acknowledgements, late stops, text, and what happens when the target has a bug."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm.observe.gdb import framing, target
from pyvmm.observe.gdb.session import Session
from pyvmm.observe.gdb.target import StopEvent
from tests.support.gdb_client import Client
from tests.support.gdb_target import FakeTarget

if TYPE_CHECKING:
    import pytest

    from pyvmm.observe.gdb.target import Say, Stopped


class Manual(FakeTarget):
    """Stops when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.stops: list[Stopped] = []

    def resume(self, actions: dict[int, str], stopped: Stopped) -> None:
        self.stops.append(stopped)


def test_acknowledgements() -> None:
    client = Client(FakeTarget(), no_ack=False)
    session = client.session
    session.feed(b"$qC#b4")
    assert bytes(client.wire) == b"+$QC1#c5"
    session.feed(b"-")
    assert bytes(client.wire) == b"+$QC1#c5$QC1#c5"
    client.wire.clear()
    session.feed(b"+$qC#00")
    assert bytes(client.wire) == b"-"
    client.wire.clear()
    session.feed(framing.frame(b"QStartNoAckMode"))
    assert bytes(client.wire) == b"+$OK#9a"
    client.wire.clear()
    session.feed(b"+-$qC#00")
    assert bytes(client.wire) == b"$QC1#c5"


def test_too_long_a_packet() -> None:
    client = Client(FakeTarget())
    assert client.ask(b"M0,8000:" + b"0" * 0x1_0000) == b"E.packet longer than PacketSize"
    assert client.ask(b"qC") == b"QC1"


def test_a_stop_counts_once_and_only_for_its_own_resume() -> None:
    fake = Manual()
    client = Client(fake)
    client.send(b"vCont;c")
    fake.stops[0](StopEvent(reason=target.EVENT, vcpu=1, text="first"))
    fake.stops[0](StopEvent(reason=target.EVENT, vcpu=0, text="again"))
    said, reply = client.stop()
    assert said == ["first\n"] and reply.startswith("T05thread:2;")
    client.send(b"vCont;c")
    fake.stops[0](StopEvent(reason=target.EVENT, text="late"))
    client.pump()
    assert not client.replies() and client.session.running
    fake.stops[1](StopEvent(reason=target.KILLED, value=15))
    assert client.stop() == ([], "X0f")


def test_a_stop_while_resume_has_not_returned() -> None:
    class Quick(FakeTarget):
        def resume(self, actions: dict[int, str], stopped: Stopped) -> None:
            stopped(StopEvent(reason=target.STEPPED))

    client = Client(Quick())
    client.send(b"vCont;s:1")
    assert client.stop()[1].startswith("T05thread:1;")


def test_a_resume_that_fails() -> None:
    class Broken(FakeTarget):
        def resume(self, actions: dict[int, str], stopped: Stopped) -> None:
            raise target.TargetError("cannot step\nhere")

    client = Client(Broken())
    assert client.ask(b"vCont;s:1") == b"E.cannot step here"
    assert not client.session.running and client.ask(b"p0")


def test_text_waits_for_the_next_resume() -> None:
    fake = Manual()
    client = Client(fake)
    assert fake.say is not None
    fake.say("one")
    client.pump()
    assert not client.replies()
    client.send(b"vCont;c")
    fake.say("two\n")
    client.pump()
    assert [bytes.fromhex(each[1:].decode()) for each in client.replies()] == [b"one\n", b"two\n"]


def test_held_text_is_bounded() -> None:
    fake = Manual()
    client = Client(fake)
    assert fake.say is not None
    for _ in range(100):
        fake.say("x" * 1000)
    client.pump()
    client.send(b"vCont;c")
    assert 60 < len(client.replies()) < 70


def test_a_bug_of_the_target_is_told() -> None:
    class Buggy(FakeTarget):
        def read_registers(self, vcpu: int) -> dict[str, int]:
            raise KeyError("rax")

    client = Client(Buggy())
    assert client.ask(b"g") == b"E.internal error: KeyError: 'rax' (a bug in pyvmm)"
    client.send(b"vCont;s:1")
    assert client.stop()[1] == "T05thread:1;"
    assert len(client.session.failures) == 2
    assert client.ask(b"m1000,1") == b"90"


def test_a_connection_that_is_lost_detaches() -> None:
    fake = FakeTarget()
    client = Client(fake)
    client.ask(b"Z0,1004,1")
    client.send(b"vCont;c")
    client.session.close()
    client.session.close()
    assert fake.log.count("detach") == 1 and not fake.breakpoints
    client.pump()
    assert not client.replies()


def test_who_does_not_read_is_not_served() -> None:
    wire = bytearray()
    session = Session(FakeTarget(), wire.extend, lambda act: None, crowded=lambda: len(wire) > 100)
    session.open()
    session.feed(b"$m0,1000#00" * 50 + framing.frame(b"qXfer:features:read:target.xml:0,1000") * 100)
    assert session.pending and len(wire) < 10_000
    for _ in range(200):
        wire.clear()
        session.work()
    assert not session.pending


def test_a_target_that_refuses() -> None:
    class Refusing(FakeTarget):
        def attach(self, say: Say) -> StopEvent:
            raise target.TargetError("somebody else has it, #1")

    client = Client(Refusing())
    assert framing.unescape(client.ask(b"qSupported:swbreak+")) == b"E.somebody else has it, #1"
    assert client.ask(b"?") == b"W00"
    assert client.ask(b"g").startswith(b"E.there is no machine")
    client.session.close()


def test_no_question_to_a_guest_that_runs() -> None:
    class Shy(Manual):
        def read_registers(self, vcpu: int) -> dict[str, int]:
            assert not self.stops
            return super().read_registers(vcpu)

    client = Client(Shy())
    client.send(b"vCont;c")
    assert client.ask(b"?") == b"E.the guest is running"
    assert client.ask(b"qThreadExtraInfo,1") == b"running".hex().encode()
    assert client.ask(b"qC") == b"QC1"
    assert not client.session.failures


def test_end_of_the_machine_at_attach(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTarget()
    monkeypatch.setattr(fake, "_ended", StopEvent(reason=target.EXITED, value=1))
    client = Client(fake)
    assert client.ask(b"?") == b"W01"
