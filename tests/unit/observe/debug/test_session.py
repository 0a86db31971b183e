"""pyvmm/observe/debug/session.py and commands/: what each command does to a subject, what it says, and what it says to nonsense."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pyvmm.events import StopReason
from pyvmm.observe.debug import subject as stops
from pyvmm.observe.debug.command import GROUPS, Reply
from pyvmm.observe.debug.session import Session
from pyvmm.observe.debug.style import Style
from pyvmm.observe.debug.subject import Moment, SubjectError
from tests.support.fake_subject import FakeSubject
from tests.unit.observe.debug.test_expression import Symbols
from tests.unit.observe.report.test_kallsyms import SIZE, table

if TYPE_CHECKING:
    from pyvmm.observe.explain.explain import Explanation

pytest.importorskip("capstone")


@pytest.fixture
def subject() -> FakeSubject:
    return FakeSubject()


@pytest.fixture
def session(subject: FakeSubject) -> Session:
    return Session(subject, Symbols())


def do(session: Session, *lines: str) -> Reply:
    for line in lines:
        reply = session.execute(line)
        assert not reply.error, reply.text
    return reply


# --- moving ----------------------------------------------------------------------------------------------------------
def test_exits_forward_and_back(session: Session, subject: FakeSubject) -> None:
    do(session, "s", "step 3", "bs", "back 2", "goto 2", "back-to 1")
    assert subject.log == ["step 1", "step 3", "back 1", "back 2", "goto exit 2", "goto exit 1"]
    assert do(session, "goto +2").data["exit"] == 3
    assert do(session, "goto -1").data["exit"] == 2
    assert do(session, "goto begin").data["exit"] == 0
    assert do(session, "goto end").data["exit"] == 4
    assert do(session, "goto 1 + 3").data["steps"] == 3


def test_instructions_forward_and_back(session: Session, subject: FakeSubject) -> None:
    assert do(session, "si").data["rip"] == 0x7C02
    assert do(session, "stepi 2").data["rip"] == 0x7C05
    assert do(session, "rsi").data["rip"] == 0x7C04
    assert do(session, "reverse-stepi 2").data["rip"] == 0x7C00
    assert do(session, "rsi").data["why"] == "begin"


def test_continue_to_a_device_register_and_back_again(session: Session) -> None:
    do(session, "b serial0.THR")
    assert "wrote 0x48 'H' to COM1 THR" in do(session, "c").text
    assert do(session, "c").data["exit"] == 4
    reply = do(session, "reverse-continue")
    assert (reply.data["exit"], reply.data["hits"]) == (2, [1])
    assert do(session, "rc").data["why"] == "begin"


def test_back_to_the_last_write_to_something(session: Session, subject: FakeSubject) -> None:
    do(session, "step 7")
    reply = do(session, "rc serial0.THR")
    assert reply.data["exit"] == 6 and "wrote 0x6c 'l'" in reply.text
    do(session, "step 5", "rc *(char *)0x500")
    assert subject.stop.at.exit == 10
    assert not len(subject.breakpoints) and not session.conditions


def test_until_leaves_no_breakpoint_behind(session: Session, subject: FakeSubject) -> None:
    reply = do(session, "until poll+7")
    assert reply.data["rip"] == 0x7C19 and not reply.data["hits"]
    assert not len(subject.breakpoints)


def test_the_end_is_told_and_can_be_left(session: Session) -> None:
    assert "The guest has ended: it has switched itself off (ACPI S5)." in do(session, "c").text
    assert do(session, "bs").data["exit"] == 14


def test_a_condition_decides(session: Session) -> None:
    do(session, "b serial0.THR if $al == 'o'")
    assert do(session, "c").data["registers"]["rax"] == 0x6F6F


def test_a_register_at_a_shared_offset_is_that_one(session: Session, subject: FakeSubject) -> None:
    """DLL and THR are both at offset 0: which one an access means is up to LCR."""
    do(session, "b serial0.DLL")
    assert do(session, "c").data["why"] == "end"


def test_continue_passes_over(session: Session) -> None:
    do(session, "b COM1.THR", "c")
    assert do(session, "c 3").data["exit"] == 8


def test_a_watchpoint_shows_old_and_new(session: Session) -> None:
    do(session, "watch *(char *)0x500")
    assert "0x0 -> 0x1" in do(session, "c").text
    assert "0x1 -> 0x2" in do(session, "c").text
    assert "0x2 -> 0x1" in do(session, "rc").text


def test_context_shows_what_changed_since_the_last_stop(session: Session) -> None:
    do(session, "s")
    reply = do(session, "s")
    assert reply.data["registers"] == {"rax": 0x4848, "rdx": 0x3F8, "rip": 0x7C1D}
    assert reply.data["devices"] == [{"device": "serial0", "path": "sent", "old": 0, "new": 1}]
    lines = reply.text.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 100
    assert "=> 0x7c1d" in reply.text and "| H" in reply.text


@pytest.mark.parametrize("width", [80, 100])
def test_a_screen_is_a_screen(session: Session, width: int) -> None:
    for line in ("s", "s", "b COM1.THR", "c", "watch *(char*)0x500", "c", "explain", "history", "bs 3", "info sregs", "info registers"):
        text = session.execute(line, Style(width=width)).text
        assert max(map(len, text.splitlines())) <= 100, text


# --- stopping --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("b 0x7c12", ("address", 0x7C12, 0x7C12, "", None)),
        ("b *0x7c12", ("address", 0x7C12, 0x7C12, "", None)),
        ("break main+4", ("address", 0x7C0C, 0x7C0C, "", None)),
        ("b", ("address", 0x7C00, 0x7C00, "", None)),
        ("b exit hlt", ("exit", 5, 5, "", None)),
        ("b exit KVM_EXIT_MMIO", ("exit", 6, 6, "", None)),
        ("b exit 2", ("exit", 2, 2, "", None)),
        ("b port 0x3f8", ("port", 0x3F8, 0x3F8, "", None)),
        ("b port 0x3f8-0x3ff out", ("port", 0x3F8, 0x3FF, "w", None)),
        ("b port 0x3f8+8 read 0x60", ("port", 0x3F8, 0x3FF, "r", 0x60)),
        ("b mmio 0xfe000000-0xfe000fff write", ("mmio", 0xFE000000, 0xFE000FFF, "w", None)),
        ("b irq 4", ("line", 4, 4, "", None)),
        ("b irq 23", ("line", 23, 23, "", None)),
        ("b serial0.THR", ("port", 0x3F8, 0x3F8, "w", None)),
        ("b com1.lsr", ("port", 0x3FD, 0x3FD, "r", None)),
        ("b serial0.LCR = 0x80", ("port", 0x3FB, 0x3FB, "", 0x80)),
        ("b serial0", ("port", 0x3F8, 0x3FF, "", None)),
        ("b vector 0x10", ("address", 0xF0123, 0xF0123, "", None)),
        ("watch *(int *)0x500", ("watch", 0x500, 0x503, "w", None)),
        ("watch 0x500, 16", ("watch", 0x500, 0x50F, "w", None)),
        ("watch main", ("watch", 0x7C08, 0x7C1B, "w", None)),
        ("rwatch 0x500", ("watch", 0x500, 0x501, "r", None)),
        ("awatch {long}0x500", ("watch", 0x500, 0x507, "", None)),
        ("watch serial0.THR", ("port", 0x3F8, 0x3F8, "w", None)),
    ],
)
def test_what_break_and_watch_take(session: Session, subject: FakeSubject, line: str, expected: tuple[object, ...]) -> None:
    do(session, line)
    (made,) = subject.breakpoints
    assert (made.kind, made.first, made.last, made.direction, made.value) == expected
    assert not session.execute("info breakpoints").error


def test_value_and_mask_vcpu_and_once(session: Session, subject: FakeSubject) -> None:
    subject.vcpus = 2
    do(session, "tbreak port 0x80 out 0x10/0xf0 vcpu 1")
    (made,) = subject.breakpoints
    assert (made.value, made.mask, made.vcpu, made.temporary) == (0x10, 0xF0, 1, True)


def test_switching_and_deleting(session: Session, subject: FakeSubject) -> None:
    do(session, "b 1", "b 2", "b 3", "disable 1-2", "ignore 3 4", "condition 3 $rax")
    assert [each.enabled for each in subject.breakpoints] == [False, False, True]
    assert session.conditions == {3: "$rax"}
    do(session, "enable", "delete 2", "clear *1")
    assert [(each.number, each.enabled, each.ignore) for each in subject.breakpoints] == [(3, True, 4)]
    do(session, "delete")
    assert not list(subject.breakpoints)


def test_what_is_gdbs_stays_gdbs(session: Session, subject: FakeSubject) -> None:
    do(session, "b 1")
    next(iter(subject.breakpoints)).owner = "gdb"
    assert session.execute("delete 1").error
    do(session, "delete")
    assert len(subject.breakpoints) == 1


# --- looking ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("p 5", "$1 = 0x5"),
        ("p/d -1", "$1 = -1"),
        ("p/t 5", "$1 = 101"),
        ("p/c 65", "$1 = 65 'A'"),
        ("print/x 255", "$1 = 0xff"),
        ("p/a main+1", "$1 = 0x7c09 <main+0x1>"),
        ("p $rip", "$1 = 0x7c00 (31744)"),
        ("p serial0.lsr", "$1 = 0x60 (96)"),
        ("p serial0", "lsr   0x60 (96)"),
        ("x/4xb 0x7c00", "0x7c00:  31 c0 8e d8"),
        ("x/2i $rip", "=> 0x7c00  31 c0"),
        ("x /2i $rip", "=> 0x7c00  31 c0"),
        ("p /t 5", "$1 = 101"),
        ("x/s 0x7c2a", '0x7c2a:  "Hello!\\n"'),
        ("x/2xh 0x7c00", "0x7c00:  0xc031  0xd88e"),
        ("xp/2xw 0x7c00", "0x7c00:  0xd88ec031"),
        ("disas main,+4", "=> "),
        ("pagewalk 0x7c00", "=> guest physical 0x7c00"),
        ("info registers rip", "0x7c00"),
        ("info r", "rip 00007c00"),
        ("info registers -a", "mode real mode"),
        ("info sregs", "mode real mode"),
        ("info vcpus", "* vCPU 0"),
        ("info devices", "COM1, 16550A UART"),
        ("info devices serial0", "THR"),
        ("info memory-map", "1 MiB  RAM"),
        ("info time", "now: exit 0"),
        ("info symbols ma", "main"),
        ("info console", "printed nothing"),
        ("info breakpoints", "no breakpoints"),
        ("info queues", "no virtqueues"),
        ("info", "info registers"),
        ("help", "walking through time"),
        ("help step", "One KVM_RUN"),
        ("help info run", "struct kvm_run"),
        ("help moving", "step (s) [N]"),
        ("show", "context"),
        ("vcpu", "vCPU 0 of 1"),
        ("echo hi", "hi"),
        ("expressions", "registers"),
        ("bt", "#0  0x7c00"),
        ("where", "next"),
    ],
)
def test_what_is_shown(session: Session, line: str, text: str) -> None:
    reply = session.execute(line.replace("disas main,+4", "disas 0x7c00,+4"))
    assert not reply.error and text in reply.text, reply.text


def test_instructions_are_those_that_come_where_no_address_is_given(session: Session) -> None:
    assert session.execute("x/2i").text.startswith("=> ")
    assert "give an address" in session.execute("xp/2xb").text


def test_x_goes_on_where_it_was(session: Session) -> None:
    do(session, "x/2xb 0x7c00")
    assert do(session, "x").text.startswith("0x7c02:  8e d8")


def test_exits_counted_decoded_explained(session: Session) -> None:
    do(session, "step 4")
    assert do(session, "info exits").data[0] == {"count": 2, "reason": "KVM_EXIT_IO", "direction": "read", "address": 0x3FD}
    assert "io.port" in do(session, "info run 2").text
    assert "PC16550D 8.0" in do(session, "explain 2").text
    assert [each["exit"] for each in do(session, "history 2").data] == [3, 4]
    assert "=>      2" in do(session, "goto 2", "history").text


def test_data_for_programs_is_plain(session: Session) -> None:
    import json

    from pyvmm.observe.debug.plain import jsonable

    for line in (
        "s",
        "s",
        "b COM1.THR",
        "c",
        "info b",
        "explain",
        "history",
        "info devices serial0",
        "x/4i $rip",
        "info exits",
        "info sregs",
    ):
        json.dumps(jsonable(do(session, line).data))


# --- changing --------------------------------------------------------------------------------------------------------
def test_registers_are_set(session: Session, subject: FakeSubject) -> None:
    do(session, "set $rax = 0x1122334455667788", "set $eax = 5")
    assert subject.regs(0).rax == 5
    do(session, "set $al=0xff", "set var $ah = 1", "set rbx = main")
    assert (subject.regs(0).rax, subject.regs(0).rbx) == (0x1FF, 0x7C08)


def test_memory_is_set(session: Session, subject: FakeSubject) -> None:
    do(session, "set *(int *)0x600 = 0x11223344", "set/b 0x604 = 0x55", "set {short}0x606 = -2")
    assert subject.memory.read(0x600, 8) == bytes.fromhex("44332211 5500 feff")


def test_a_recording_cannot_be_changed() -> None:
    session = Session(FakeSubject(live=False))
    assert "a recording cannot be changed" in session.execute("set $rax = 1").text
    assert session.execute("type x").error and session.execute("save x").error


def test_type_unescapes(subject: FakeSubject) -> None:
    typed = []
    session = Session(subject, type_=typed.append)
    do(session, r"type hello\n", r'type "a b\x03\\"')
    assert typed == [b"hello\n", b"a b\x03\\"]


# --- tools -----------------------------------------------------------------------------------------------------------
def test_files_of_commands(session: Session, tmp_path: Path) -> None:
    (tmp_path / "good").write_text("# a comment\n\nstep\nprint 5\n")
    assert "$1 = 0x5" in do(session, f"source {tmp_path}/good").text
    (tmp_path / "bad").write_text("step\nnonsense\nstep\n")
    reply = session.execute(f"source {tmp_path}/bad")
    assert reply.error and f"{tmp_path}/bad:2: no command 'nonsense'" in reply.text
    (tmp_path / "loop").write_text(f"source {tmp_path}/loop\n")
    assert "more than 8 deep" in session.execute(f"source {tmp_path}/loop").text


def test_python_lines_and_hooks(session: Session, subject: FakeSubject, tmp_path: Path) -> None:
    assert do(session, "python 1+1").text == "2"
    assert do(session, "py guest.subject.regs(0).rip").text == str(0x7C00)
    hook = tmp_path / "hook.py"
    hook.write_text("seen = []\ndef on_exit(exit):\n    seen.append(exit.fields['port'])\n    return exit.data == b'e'\n")
    assert "on_exit will be called" in do(session, f"python {hook}").text
    assert do(session, "c").data["exit"] == 4
    do(session, "python off")
    assert do(session, "c").data["why"] == "end"


def test_a_hook_that_raises_stops_and_is_called_no_more(session: Session, tmp_path: Path) -> None:
    hook = tmp_path / "hook.py"
    hook.write_text("def on_exit(exit):\n    raise ValueError('no\\nway')\n")
    do(session, f"source {hook}")
    reply = do(session, "c")
    assert f"{hook}: on_exit raised ValueError: no (line 2); it is called no more" in reply.text
    assert reply.data["exit"] == 1
    assert do(session, "c").data["why"] == "end"


@pytest.mark.parametrize("code", ["1/0", "raise SystemExit(3)", "def", "nobody", "exit()"])
def test_python_that_fails_is_a_line(session: Session, code: str) -> None:
    reply = session.execute(f"python {code}")
    assert reply.error and "\n" not in reply.text and not reply.leave


def test_a_bug_in_a_command_costs_nothing(session: Session, subject: FakeSubject) -> None:
    subject.step = lambda count=1: 1 / 0  # type: ignore[assignment,return-value]
    reply = session.execute("step")
    assert reply.error and "a bug in pyvmm" in reply.text
    do(session, "print 1")


def test_what_the_subject_refuses_is_a_line(session: Session, subject: FakeSubject) -> None:
    def refuse(count: int = 1) -> None:
        raise SubjectError("not today")

    subject.step = refuse  # type: ignore[assignment]
    assert session.execute("s").text == "step: not today"


def test_a_running_guest_is_stopped_first(session: Session, subject: FakeSubject) -> None:
    subject.running = True
    assert "the guest is running" in session.execute("info registers").text
    do(session, "help", "delete")


# --- the table -------------------------------------------------------------------------------------------------------
def test_names_that_gdb_users_type(session: Session) -> None:
    wanted = {
        "s": "step",
        "si": "stepi",
        "c": "continue",
        "n": "nexti",
        "ni": "nexti",
        "b": "break",
        "br": "break",
        "tb": "tbreak",
        "d": "delete",
        "i": "info",
        "p": "print",
        "x": "x",
        "l": "disassemble",
        "disas": "disassemble",
        "bt": "backtrace",
        "q": "quit",
        "h": "history",
        "r": "run",
        "f": "where",
        "u": "until",
        "rsi": "reverse-stepi",
        "rc": "reverse-continue",
        "bs": "back",
        "wat": "watch",
        "he": "help",
        "dis": "disable",
        "en": "enable",
        "t": "thread",
        "so": "source",
        "reverse-c": "reverse-continue",
        "cond": "condition",
        "cont": "continue",
    }
    assert {word: session.commands.find(word).name for word in wanted} == wanted


def test_every_command_says_what_it_is(session: Session) -> None:
    for command in session.commands.commands.values():
        assert command.help and command.group in GROUPS and command.run.__module__.startswith("pyvmm.observe.debug.commands")
        assert len(command.help) <= 120 and not command.help.endswith(".")
        from pyvmm.observe.debug.completion import SOURCES

        assert set(command.completes) <= set(SOURCES)


WRONG = [
    ("nonsense", "no command 'nonsense'"),
    ("stepp", "did you mean step"),
    ("re", "may be"),
    ("step x", "called 'x'"),
    ("step 0", "from 1"),
    ("step -1", "from 1"),
    ("step 1 2", "not understood"),
    ("si x", "called 'x'"),
    ("back 0", "from 1"),
    ("goto", "give the number"),
    ("goto x", "called 'x'"),
    ("goto 99999999999999", "too far"),
    ("rc $rax", "is a register"),
    ("c 2", "no breakpoint has been hit"),
    ("until", "give an address"),
    ("break nowhere", "called 'nowhere'"),
    ("b exit", "which exit"),
    ("b exit hltt", "did you mean hlt"),
    ("b port", "which port"),
    ("b port 0x10000", "no range"),
    ("b port 5-4", "no range"),
    ("b port 5 sideways", "called 'sideways'"),
    ("b port 5 r 1 2", "not understood"),
    ("b serial0.XYZ", "no register 'XYZ'"),
    ("b serial0.TRH", "did you mean THR"),
    ("b irq", "which interrupt line"),
    ("b irq 24", "0 to 23"),
    ("watch serial0.LSR", "is only read: rwatch"),
    ("rwatch serial0.THR", "is only written: watch"),
    ("history 0", "from 1"),
    ("vcpu -1", "no vCPU -1"),
    ("b vector 256", "which vector"),
    ("b vector 8", "no handler"),
    ("b main if", "must follow"),
    ("b main if nobody", "called 'nobody'"),
    ("b main vcpu 7", "no vCPU 7"),
    ("hbreak serial0.THR", "for addresses"),
    ("watch", "give an address"),
    ("watch $rax", "is a register"),
    ("watch 0 0", "from 1 to 4096"),
    ("watch 0,9999", "from 1 to 4096"),
    ("delete 9", "no breakpoint 9"),
    ("delete x", "no breakpoint's number"),
    ("enable 1-", "no breakpoint's"),
    ("ignore 1", "give a breakpoint"),
    ("ignore 1 2", "no breakpoint '1'"),
    ("condition", "give a breakpoint"),
    ("clear 5", "no breakpoint at"),
    ("explain", "nothing has happened"),
    ("explain 5", "not happened yet"),
    ("explain x", "called 'x'"),
    ("history x", "called 'x'"),
    ("history 1 2 3", "how many"),
    ("x", "give an address"),
    ("x/99999999x 0", "no format"),
    ("x/q 0", "neither a format"),
    ("x/0x 0", "from 1"),
    ("x 0xffffffff", "no memory"),
    ("x/i 0xffffffff", "no memory"),
    ("xp/4x 0xffffffffffff", "outside RAM"),
    ("xp/i 0", "linear"),
    ("p", "give an expression"),
    ("p/y 1", "no format"),
    ("p 1 +", "missing"),
    ("pagewalk", "give a linear"),
    ("disas 1,1,1", "not understood"),
    ("disas 0x7c00,+99999999", "64 KiB"),
    ("info nonsense", "no command 'nonsense'"),
    ("info registers foo", "no register 'foo'"),
    ("info run", "no exit yet"),
    ("info devices nobody", "no device 'nobody'"),
    ("info msrs", "registers only"),
    ("info irqchip", "no interrupt controllers"),
    ("info sregs 5", "no arguments"),
    ("info cpuid", "not known here"),
    ("set", "equals sign"),
    ("set $rax", "equals sign"),
    ("set = 5", "equals sign"),
    ("set $rax = ", "equals sign"),
    ("set $al = 0x100", "does not fit"),
    ("set $cs = 8", "cannot be set"),
    ("set 0xffffffff = 1", "no memory"),
    ("set serial0.lcr = 3", "belongs to a device"),
    ("set context maybe", "one of on, off"),
    ("set/q 5 = 5", "no size"),
    ("type", "give a text"),
    ("type x", "nothing can be typed"),
    ("show nothing", "no setting"),
    ("vcpu 7", "no vCPU 7"),
    ("vcpu x", "called 'x'"),
    ("thread 0", "no thread 0"),
    ("help nothing", "no command 'nothing'"),
    ("source", "give a file"),
    ("source /nowhere/at/all", "No such file"),
    ("python", "give a file"),
    ("python /nowhere.py", "No such file"),
    ("save", "give a file"),
    ("step/x", "means nothing"),
    ("", ""),
    ("  # comment", ""),
    ("@@", "is no command"),
]


@pytest.mark.parametrize(("line", "says"), WRONG)
def test_wrong_arguments_get_one_clear_line(session: Session, subject: FakeSubject, line: str, says: str) -> None:
    before = subject.at
    reply = session.execute(line)
    assert says in reply.text and "\n" not in reply.text and "a bug" not in reply.text, reply.text
    assert reply.error == bool(says)
    assert subject.at == before and not len(subject.breakpoints)


def test_places_that_make_no_exits_are_told_of(session: Session) -> None:
    assert "the 8254 timer (PIT) answers there in the kernel" in do(session, "b port 0x40").text
    assert "Note" not in do(session, "b port 0x80").text


@pytest.mark.parametrize("line", ["help", "info", "help looking"])
@pytest.mark.parametrize("width", [80, 100])
def test_lists_fit_the_screen(session: Session, line: str, width: int) -> None:
    assert max(map(len, session.execute(line, Style(width=width)).text.split("\n"))) <= width


def test_the_terminal_changes_hands_once_however_often_a_condition_fails(session: Session) -> None:
    turns = []

    class Turn:
        def __enter__(self) -> None:
            turns.append("guest")

        def __exit__(self, *_: object) -> None:
            turns.append("prompt")

    session.foreground = Turn
    do(session, "b serial0.THR if $al == 'o'", "c", "s", "until poll")
    assert turns == ["guest", "prompt"] * 2


def test_names_from_the_kernel_in_memory_and_from_a_file(subject: FakeSubject, tmp_path: Path) -> None:
    session = Session(subject)
    assert "symbol-file" in session.execute("info symbols").text
    assert "unpacks itself first" in session.execute("symbol-file").text
    data, known = table(newer=True, sequences=True, percpu=False)
    subject._memory.extend(bytes(SIZE))
    subject._memory[1 << 20 : (1 << 20) + len(data)] = data
    subject.layout.ram[:] = [(0, len(subject._memory))]
    assert do(session, "symbol-file").text == "3000 names from the kernel's own table"
    name, address = known[1000]
    assert session.symbol(name) == (address, 0)
    assert session.place(address + 2) == f" <{name}+0x2>"
    chart = tmp_path / "System.map"
    chart.write_text("0000000000007c00 T begin\n")
    assert do(session, f"symbol-file {chart}").data["names"] == 1
    assert session.symbol("begin") == (0x7C00, 0)
    chart.write_text("nothing\n")
    reply = session.execute(f"symbol-file {chart}")
    assert reply.error and "no symbols in it" in reply.text
    assert session.symbol("begin") == (0x7C00, 0)


def test_a_register_that_begins_behind_an_address_is_not_there(session: Session) -> None:
    assert do(session, "break port 0x3fd write").text.endswith("write to port 0x3fd, COM1")  # LSR is read, SCR is at 0x3ff
    assert do(session, "break port 0x3fd read").text.endswith("COM1 LSR")


def test_pc_is_where_the_next_instruction_is_in_real_mode_as_well() -> None:
    class Segmented(FakeSubject):
        def sregs(self, vcpu: int) -> Any:
            found = super().sregs(vcpu)
            found.cs.selector, found.cs.base = 0x7B0, 0x7B00
            return found

        def regs(self, vcpu: int) -> Any:
            found = super().regs(vcpu)
            found.rip -= 0x7B00
            return found

    session = Session(Segmented(), Symbols())
    assert do(session, "p/x $rip").text.endswith("0x100") and do(session, "p/x $pc").text.endswith("0x7c00")
    code = do(session, "x/2i").text
    assert "0x7c00" in code and code == do(session, "x/2i $pc").text


def test_without_history_nothing_is_said_of_a_way_back() -> None:
    class Forgetful(FakeSubject):
        @property
        def last(self) -> Moment:
            return self.first

        def explain(self, number: int) -> Explanation:
            raise SubjectError("exits are not kept")

    session = Session(Forgetful(), Symbols())
    assert "exits are not kept" in do(session, "step").text
    ended = do(session, "continue").text
    assert "The guest has ended" in ended and "kept" not in ended and "back" not in ended
    for why in (stops.END, stops.CRASHED):
        session.subject.stop.why = why
        session.subject.stop.verdict = StopReason(kind="halted", detail="for good")
        shown = do(session, "where").text
        assert "for good." in shown and "back" not in shown and "explain" not in shown and "kept" not in shown
