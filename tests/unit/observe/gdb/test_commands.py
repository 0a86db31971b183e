"""Every packet gdb sends, against a small computer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pyvmm.observe.gdb import target
from pyvmm.observe.gdb.registers import AMD64, I386
from tests.support.gdb_client import Client
from tests.support.gdb_target import COUNTER, HLT, NOP, START, FakeTarget

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def fake() -> FakeTarget:
    return FakeTarget()


@pytest.fixture
def client(fake: FakeTarget) -> Client:
    return Client(fake)


def test_hello(client: Client) -> None:
    reply = client.ask(b"qSupported:multiprocess+;swbreak+;hwbreak+;xmlRegisters=i386;no-resumed+").decode().split(";")
    assert reply[0] == "PacketSize=4000"
    assert set(reply[1:]) == {
        *("QStartNoAckMode+", "qXfer:features:read+", "qXfer:threads:read+", "vContSupported+", "swbreak+", "hwbreak+"),
        *("ReverseStep+", "ReverseContinue+"),
    }  # fmt: skip


def test_only_what_exists_is_announced(client: Client, fake: FakeTarget) -> None:
    fake.reversible = False
    reply = client.ask(b"qSupported:swbreak-")
    assert b"swbreak" not in reply and b"Reverse" not in reply
    assert client.ask(b"bs") == client.ask(b"bc") == b""


@pytest.mark.parametrize(
    ("packet", "reply"),
    [
        (b"vMustReplyEmpty", b""),
        (b"qTStatus", b""),
        (b"qOffsets", b""),
        # LLDB's own (lldb/docs/lldb-gdb-remote.txt): it goes without when the answer is empty
        (b"qHostInfo", b""),
        (b"qProcessInfo", b""),
        (b"qRegisterInfo0", b""),
        (b"QThreadSuffixSupported", b""),
        (b"QListThreadsInStopReply", b""),
        (b"qMemoryRegionInfo:1000", b""),
        (b"qThreadStopInfo2", b""),
        (b"jThreadsInfo", b""),
        (b"qShlibInfoAddr", b""),
        (b"x0,0", b""),
        (b"_M1000,rwx", b""),
        (b"_m1000", b""),
        (b"A4,0,6162", b""),
        # gdb takes "" for a hint to send R, which has no reply (E.2), and misreads all that follows
        (b"vRun;", b"E.a machine is not run from gdb: end pyvmm and start it again"),
        (b"QSetDisableASLR:1", b""),
        (b"vNobodyKnows;1", b""),
        (b"\xff\x00", b""),
        (b"", b""),
        (b"qAttached", b"1"),
        (b"qAttached:1", b"1"),
        (b"qSymbol::", b"OK"),
        (b"qC", b"QC1"),
        (b"!", b"OK"),
        (b"vCont?", b"vCont;c;C;s;S;r"),
        (b"qfThreadInfo", b"m1,2"),
        (b"qsThreadInfo", b"l"),
        (b"qThreadExtraInfo,1", b"64-bit <ring 0>".hex().encode()),
        (b"qThreadExtraInfo,3", b"E01"),
        (b"T2", b"OK"),
        (b"T3", b"E01"),
        (b"T0", b"E01"),
        (b"Hg2", b"OK"),
        (b"Hg0", b"OK"),
        (b"Hgp1.2", b"OK"),
        (b"Hc-1", b"OK"),
        (b"Hg3", b"E01"),
        (b"Hx1", b"E01"),
        (b"Hg", b"E01"),
        (b"m1000,4", b"9048ffc0"),
        (b"mfffe,8", b"0000"),
        (b"m10000,8", b"E0e"),
        (b"m1000,0", b""),
        (b"m1000", b"E01"),
        (b"m 1000,4", b"E01"),
        (b"m0x1000,4", b"E01"),
        (b"m1_0,4", b"E01"),
        (b"m11112222333344445,4", b"E01"),
        (b"mffffffffffffffff,8", b"E0e"),
        (b"M3000,2:1234", b"OK"),
        (b"M3000,2:12", b"E01"),
        (b"Mffff,2:1234", b"E0e"),
        (b"X3000,0:", b"OK"),
        (b"X3000,2:}\x03a", b"OK"),
        (b"X3000,2:a", b"E01"),
        (b"p10", b"0010000000000000"),
        (b"pff", b"E01"),
        (b"P0=1", b"E01"),
        (b"P0", b"E01"),
        (b"Pff=00", b"E01"),
        (b"P0=0100000000000000", b"OK"),
        (b"vCont", b"E01"),
        (b"vCont;x", b"E01"),
        (b"vCont;c:9", b"E.no such vCPU"),
        (b"Z0,1000,1;X2,1234", b"E.conditions are gdb's to check"),
        (b"Z5,1000,1", b""),
        (b"Z0,1000", b"E01"),
        (b"qXfer:features:read:other.xml:0,10", b"E00"),
        (b"qXfer:auxv:read::0,10", b""),
        (b"qXfer:features:write:target.xml:0:aa", b""),
        (b"qXfer:features:read:target.xml:fffff,10", b"E01"),
        (b"vAttach;1", b"E.attached already"),
    ],
)
def test_replies(client: Client, packet: bytes, reply: bytes) -> None:
    assert client.ask(packet) == reply
    assert client.ask(b"T1") == b"OK"
    assert not client.session.failures


def test_target_xml_in_pieces(client: Client) -> None:
    text, piece = b"", b"m"
    while piece[:1] == b"m":
        piece = client.ask(b"qXfer:features:read:target.xml:%x,fb" % len(text))
        text += piece[1:]
    assert text.startswith(b"<?xml") and text.endswith(b"</target>\n")
    assert client.ask(b"qXfer:features:read:target.xml:%x,fb" % len(text)) == b"l"


def test_threads_as_xml(client: Client) -> None:
    reply = client.ask(b"qXfer:threads:read::0,fff")
    assert b'<thread id="2" core="1" name="vCPU 1">64-bit &lt;ring 1&gt;</thread>' in reply


def test_all_registers(client: Client, fake: FakeTarget) -> None:
    fake.registers[1]["rbx"] = 0x1122334455667788
    del fake.registers[1]["xmm3"]
    assert client.ask(b"Hg2") == b"OK"
    reply = client.ask(b"g")
    assert len(reply) * 4 == sum(each.bits for each in AMD64.registers)
    assert reply[16:32] == b"8877665544332211"
    assert reply.count(b"x") == 32
    assert client.ask(b"p2b") == b"x" * 32
    changed = reply[:16] + b"0100000000000000" + reply[32:]
    assert client.ask(b"G" + changed) == b"OK"
    assert fake.registers[1]["rbx"] == 1 and "xmm3" not in fake.registers[1]
    assert client.ask(b"G" + changed[:-2]) == client.ask(b"G" + changed + b"00") == b"E01"


def test_a_register_that_cannot_be_written(client: Client) -> None:
    number = [each.name for each in AMD64.registers].index("cr8")
    assert client.ask(b"P%x=0100000000000000" % number) == b"E.cr8 is read-only here"


def test_a_32_bit_description(fake: FakeTarget) -> None:
    fake.registers[0]["rax"] = 0x1_0000_0002
    client = Client(fake, I386)
    assert client.ask(b"p0") == b"02000000"
    assert client.ask(b"p8") == b"00100000"
    assert b"<architecture>i386<" in client.ask(b"qXfer:features:read:target.xml:0,1000")


def test_memory_is_written(client: Client, fake: FakeTarget) -> None:
    client.ask(b"M3000,3:0aff01")
    client.ask(b"X3003,4:}\x03}]}\x04*")
    assert fake.memory[0x3000:0x3007] == b"\x0a\xff\x01#}$*"


def test_breakpoints_are_inserted_once(client: Client, fake: FakeTarget) -> None:
    assert client.ask(b"Z0,1004,1") == client.ask(b"Z0,1004,1") == b"OK"
    assert client.ask(b"Z2,2000,8") == b"OK"
    assert fake.breakpoints == {(target.SOFTWARE, 0x1004, 1), (target.WRITE, 0x2000, 8)}
    assert client.ask(b"z0,1004,1") == client.ask(b"z0,1004,1") == b"OK"
    assert fake.breakpoints == {(target.WRITE, 0x2000, 8)}


def test_breakpoints_are_bounded(client: Client) -> None:
    for at in range(4096):
        assert client.ask(b"Z0,%x,1" % at) == b"OK"
    assert client.ask(b"Z0,5000,1") == b"E.too many breakpoints"


def test_why_a_breakpoint_was_refused_is_told_later(client: Client, fake: FakeTarget) -> None:
    for at in range(64):
        client.ask(b"Z2,%x,1" % at)
    assert client.ask(b"Z2,2000,8") == b"E.no debug register is free"
    assert len(client.session.breakpoints) == 64
    client.pump()
    client.send(b"vCont;s:1")
    assert client.stop()[0] == ["write breakpoint at 0x2000: no debug register is free\n"]


def test_step(client: Client, fake: FakeTarget) -> None:
    client.send(b"vCont;s:1")
    said, reply = client.stop()
    assert reply == "T05thread:1;core:0;06:0000000000000000;07:0080000000000000;10:0110000000000000;11:02000000;"
    assert not said and fake.registers[1]["rip"] == START


def test_the_leftmost_action_counts(client: Client, fake: FakeTarget) -> None:
    client.send(b"vCont;s:2;c:p1.-1")
    _, reply = client.stop()
    assert reply.startswith("T05thread:2;")
    assert fake.log[-1] == "resume {1: 'step', 0: 'continue'}"


@pytest.mark.parametrize("packet", [b"c", b"C05", b"vCont;c", b"vCont;C05", b"c1001", b"C05;1001"])
def test_continue_to_a_breakpoint(client: Client, fake: FakeTarget, packet: bytes) -> None:
    client.ask(b"qSupported:swbreak+;hwbreak+")
    client.ask(b"Z1,1004,1")
    client.send(packet)
    _, reply = client.stop()
    assert reply.startswith("T05thread:1;core:0;hwbreak:;")
    assert fake.registers[0]["rip"] == 0x1004


@pytest.mark.parametrize("packet", [b"s", b"S05", b"s1000", b"S05;1000"])
def test_old_steps(client: Client, fake: FakeTarget, packet: bytes) -> None:
    client.ask(b"Hc2")
    client.send(packet)
    _, reply = client.stop()
    assert reply.startswith("T05thread:2;") and fake.registers[1]["rip"] == 0x1001


@pytest.mark.parametrize(("kind", "name"), [(2, "watch"), (4, "awatch")])
def test_watch(client: Client, fake: FakeTarget, kind: int, name: str) -> None:
    client.ask(b"Z%d,%x,4" % (kind, COUNTER))
    client.send(b"vCont;c")
    _, reply = client.stop()
    assert f";{name}:2000;" in reply and fake.registers[0]["rip"] == 0x100C


def test_no_swbreak_for_a_gdb_that_does_not_know_it(client: Client) -> None:
    client.ask(b"Z0,1004,1")
    client.send(b"vCont;c")
    assert "break" not in client.stop()[1]


def test_step_in_a_range(client: Client, fake: FakeTarget) -> None:
    client.send(b"vCont;r1000,100c:1")
    _, reply = client.stop()
    assert reply.startswith("T05thread:1;") and fake.registers[0]["rip"] == 0x100C
    assert fake.log.count("resume {0: 'step'}") == 3


def test_control_c_ends_a_range_that_has_no_end(client: Client) -> None:
    client.send(b"vCont;r0,ffff:1;c")
    for _ in range(20):
        client.arrived.wait(1)
        client.pump()
    client.session.feed(b"\x03")
    assert client.stop()[1].startswith("T02")


def test_backwards(client: Client, fake: FakeTarget) -> None:
    for _ in range(3):
        client.send(b"vCont;s:1")
        client.stop()
    assert fake.registers[0]["rip"] == 0x100C and fake.memory[COUNTER] == 1
    client.send(b"bs")
    assert ";10:0410000000000000;" in client.stop()[1]
    assert fake.memory[COUNTER] == 0
    client.send(b"bc")
    _, reply = client.stop()
    assert ";replaylog:begin;" in reply and fake.registers[0]["rip"] == START


def test_control_c(client: Client, fake: FakeTarget) -> None:
    client.send(b"vCont;c")
    assert fake.running.wait(5)
    assert not client.replies()
    assert client.ask(b"g") == b"E.the guest is running"
    assert b">running<" in client.ask(b"qXfer:threads:read::0,fff")
    client.session.feed(b"\x03")
    assert client.stop()[1].startswith("T02thread:1;")
    client.session.feed(b"\x03")  # too late: nothing happens
    assert fake.log.count("interrupt") == 1 and not client.replies()


def test_the_machine_ends() -> None:
    client = Client(FakeTarget(NOP + HLT))
    client.send(b"vCont;c")
    said, reply = client.stop()
    assert (said, reply) == (["the guest powered off\n"], "W03")
    assert client.ask(b"?") == b"W03"
    assert client.ask(b"g") == b"E.there is no machine: it has ended or was detached"
    assert client.ask(b"qfThreadInfo") == b"l"
    assert client.ask(b"vAttach;1") == b"W03"


def test_the_machine_crashes() -> None:
    client = Client(FakeTarget(b"\xcc"))
    client.send(b"vCont;c")
    said, reply = client.stop()
    assert said == ["an instruction nobody knows\n"] and reply.startswith("T06")
    assert len(client.ask(b"g")) > 1000


def test_detach_and_attach_again(client: Client, fake: FakeTarget) -> None:
    client.ask(b"Z0,1004,1")
    assert client.ask(b"D;1") == b"OK" == client.ask(b"D")
    assert fake.log == ["attach", "detach"] and not fake.breakpoints
    assert client.ask(b"?") == b"W00"
    assert client.ask(b"vAttach;1").startswith(b"T05thread:1;")
    assert fake.attached
    assert client.ask(b"Z0,1004,1") == b"OK"


def test_kill(client: Client, fake: FakeTarget) -> None:
    client.send(b"k")
    assert fake.killed and client.session.over and client.replies() == [b"X09"]  # LLDB calls it a failure without


def test_a_restart_has_no_reply(client: Client, fake: FakeTarget) -> None:
    client.send(b"R0")
    assert not client.replies() and not fake.killed and client.ask(b"qC") == b"QC1"


def test_kill_by_process(client: Client, fake: FakeTarget) -> None:
    assert client.ask(b"vKill;1") == b"OK"
    assert fake.killed and not client.session.over


def test_monitor(client: Client) -> None:
    assert client.monitor("hi there") == "you said: hi there\n"
    assert client.monitor("fail") == "that cannot be done\n"
    assert client.monitor("") == "you said: help\n"
    assert client.ask(b"qRcmd,1") == b"E01"


def test_much_output_of_monitor(fake: FakeTarget) -> None:
    fake.monitor = lambda command, told: told("x" * (2 << 20))  # type: ignore[method-assign]
    client = Client(fake)
    client.send(b"qRcmd,61")
    client.pump()
    *said, ok = client.replies()
    text = bytes.fromhex(b"".join(each[1:] for each in said).decode()).decode()
    assert ok == b"OK" and len(text) < (1 << 20) + 100 and text.endswith("(cut: too long)\n")
    assert max(map(len, said)) <= 0x4000


class Slow(FakeTarget):
    """Its monitor moves the guest, until it is interrupted."""

    def monitor(self, command: str, told: Callable[[str], None]) -> None:
        self.told = told
        self.log.append(command)

    def interrupt(self) -> None:
        super().interrupt()
        self.told("interrupted\n")


def test_what_comes_while_a_monitor_command_takes_its_time_ends_it() -> None:
    """gdb's user has pressed Ctrl-C: gdb waits for the answer no more, and would take it for that of its next packet."""
    fake = Slow()
    client = Client(fake)
    client.send(b"qRcmd," + b"continue".hex().encode())
    assert not client.replies() and not client.session.pending
    client.send(b"p10")
    assert not client.replies() and not client.session.pending and fake.log[-1] == "interrupt"
    client.send(b"p11")
    client.pump()
    assert client.replies() == [b"0010000000000000", b"02000000"]
    assert fake.log.count("interrupt") == 1


def test_control_c_ends_a_monitor_command() -> None:
    client = Client(Slow())
    client.send(b"qRcmd,61")
    client.session.feed(b"\x03")
    client.pump()
    assert client.replies() == [b"O" + b"interrupted\n".hex().encode(), b"OK"]
    client.send(b"vCont;s:1")
    assert client.stop()[1].startswith("T05"), "it was for the command, not for what comes next"


def test_a_connection_lost_under_a_monitor_command() -> None:
    fake = Slow()
    client = Client(fake)
    client.send(b"qRcmd,61")
    client.session.close()
    fake.told("late")
    client.pump()
    assert not client.replies() and fake.log[-1] == "detach"
