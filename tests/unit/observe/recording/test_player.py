"""A recording moves as a guest would, in both directions, and says what it cannot do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pyvmm.kvm import uapi
from pyvmm.observe.debug import subject
from pyvmm.observe.debug.conditions import ADDRESS, EXIT, PORT, WRITE, Breakpoint
from pyvmm.observe.debug.subject import Moment, SubjectError
from pyvmm.observe.recording.player import Player
from pyvmm.observe.recording.reader import Recording
from tests.support.recordings import Author, letters

TEXT = b"Hello, world"


@pytest.fixture
def player(tmp_path: Path):  # type: ignore[no-untyped-def]
    with Recording.open(str(letters(tmp_path / "s.pvm"))) as recording:
        yield Player(recording)


def test_forward_and_back(player: Player) -> None:
    assert player.stop.why == subject.START and player.at == Moment(exit=0)
    stop = player.step(3)
    assert (stop.why, stop.exit, stop.at) == (subject.EXIT, 3, Moment(exit=3))
    assert player.regs(0).rip == 0x7C03 and player.sregs(0).cr0 == 0x10
    assert player.console() == b"H"
    assert player.back().at.exit == 2
    assert player.back(9).why == subject.BEGIN and player.at.exit == 0
    assert player.goto(Moment(exit=17)).why == subject.ARRIVED
    assert player.console() == TEXT[:8] and player.console(3) == TEXT[5:8] and player.console(0) == b""
    assert player.step(99).why == subject.END and player.at.exit == 24
    assert player.stop.verdict is not None and player.stop.verdict.kind == "poweroff"
    assert player.console() == TEXT + b"!"
    assert (player.first.exit, player.last.exit) == (0, 24)
    assert player.step().why == player.run().why == subject.END
    assert player.back().at.exit == 23


def test_breakpoints_at_exits_in_both_directions(player: Player) -> None:
    point = player.breakpoints.add(Breakpoint(kind=PORT, first=0x3F8, last=0x3F8, direction=WRITE, value=ord("o")))
    met = []
    while (stop := player.run()).why == subject.BREAKPOINT:
        met.append(stop.at.exit)
        assert stop.hits == [point.number]
    assert stop.why == subject.END
    assert met == [10, 18]
    back = []
    while (stop := player.reverse_run()).why == subject.BREAKPOINT:
        back.append(stop.at.exit)
    assert stop.why == subject.BEGIN and back == [18, 10]
    assert point.hits == 4
    player.breakpoints.add(Breakpoint(kind=EXIT, first=uapi.KVM_EXIT_IO, last=0))
    assert player.step(5).at.exit == 1  # a step is over at the first of them
    assert player.goto(Moment(exit=20)).why == subject.ARRIVED  # goto passes them


def test_what_a_recording_does_not_have(player: Player) -> None:
    for act in (lambda: player.step_instructions(0), lambda: player.reverse_step(0), lambda: player.goto(Moment(exit=3, steps=1))):
        with pytest.raises(SubjectError, match="a recording has exits only"):
            act()
    for change in (lambda: player.set_regs(0, {"rax": 1}), lambda: player.write(0, b"x")):
        with pytest.raises(SubjectError, match="cannot be changed"):
            change()
    for number in (0, 25, -3):
        with pytest.raises(SubjectError, match=f"exit {number} is not in the recording, which has 24"):
            player.exit(number)
    with pytest.raises(SubjectError):
        player.goto(Moment(exit=25))
    with pytest.raises(SubjectError, match="there is no vCPU 1"):
        player.regs(1)
    player.breakpoints.add(Breakpoint(kind=ADDRESS, first=0x7C00, last=0x7C00))
    with pytest.raises(SubjectError, match="breakpoint 1 is inside the guest"):
        player.run()
    assert player.at.exit == 0 and not player.running


def test_all_of_a_vcpu_at_keyframes_only(player: Player) -> None:
    player.goto(Moment(exit=8))
    assert player.vcpu_state(0).msrs == {0x10: 8}
    assert len(player.vm_state().chips) == 3
    player.step()
    with pytest.raises(SubjectError, match="the nearest before is exit 8"):
        player.vcpu_state(0)


def test_memory_and_its_note(player: Player, tmp_path: Path) -> None:
    player.goto(Moment(exit=5))
    assert player.memory_note == "" and player.memory.read(0x5000, 3) == b"\xee\xee\0"
    with Recording.open(str(letters(tmp_path / "large.pvm", exact=False))) as recording:
        large = Player(recording)
        large.goto(Moment(exit=13))
        assert large.memory_note.startswith("memory is that of exit 8, 5 before this one")
        large.goto(Moment(exit=16))
        assert large.memory_note == ""


def test_explanations(player: Player) -> None:
    found = player.explain(2)
    assert found.title == "vCPU 0 wrote 0x48 'H' to COM1 THR"
    assert found.changed is not None and "sent" in str(found.changed) and len(found.changed) == 1
    assert player.explain(1).title.startswith("vCPU 0 read 0x60 from COM1 LSR")
    assert player.at.exit == 0  # it did not move


def test_a_recording_without_end_says_so_there(tmp_path: Path) -> None:
    author = Author(tmp_path / "s.pvm")
    author.exit(b"a")
    author.close("")
    with Recording.open(str(tmp_path / "s.pvm")) as recording:
        stop = Player(recording).run()
        assert stop.why == subject.END and "has no end" in stop.text and stop.verdict is None


def test_a_crash_is_one(tmp_path: Path) -> None:
    author = Author(tmp_path / "s.pvm")
    author.exit(b"a")
    author.close("crash")
    with Recording.open(str(tmp_path / "s.pvm")) as recording:
        assert Player(recording).run().why == subject.CRASHED


_NO_KVM = """
import builtins, os, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in ("fcntl", "termios", "pyvmm.kvm.system", "pyvmm.kvm.vm", "pyvmm.kvm.vcpu", "pyvmm.kvm.ioctl", "pyvmm.machine"):
            raise ImportError(f"{name} is not on this machine")
sys.meta_path.insert(0, Refuse())
from pyvmm.kvm import native
def function(name, *types):
    raise OSError(f"the C library has no {name}")
native.function = function
real = open
def refuse(path, *rest, **named):
    assert "/dev/kvm" not in str(path)
    return real(path, *rest, **named)
builtins.open = refuse
from pyvmm.cli import main
commands = ["step 2", "explain", "info registers", "info devices", "goto 0", "info irqchip", "history", "continue"]
sys.exit(main(["replay", sys.argv[1], "--batch", *(word for each in commands for word in ("-ex", each))]))
"""


def test_replay_where_there_is_no_kvm_nor_linux(tmp_path: Path) -> None:
    path = letters(tmp_path / "s.pvm")
    ended = subprocess.run([sys.executable, "-c", _NO_KVM, str(path)], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert "wrote 0x48 'H' to COM1 THR" in ended.stdout
    assert ended.stderr == ""
