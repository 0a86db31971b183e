"""One gdb, from connection to good-bye: what it has selected, whether the guest runs, and the replies. No socket, no thread.

All-stop mode: while the guest runs gdb sends nothing but Ctrl-C, and the answer to its resume packet is the stop.
"""

from __future__ import annotations

from collections import deque

from pyvmm.errors import PyvmmError
from pyvmm.observe.gdb import framing, target
from pyvmm.observe.gdb.commands import find
from pyvmm.observe.gdb.registers import AMD64
from pyvmm.observe.gdb.words import Malformed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.observe.gdb.registers import Description
    from pyvmm.observe.gdb.target import StopEvent, Target

STOPPED, RUNNING, NONE = "stopped", "running", "not attached"
_OUTPUT_MAX = 1 << 20  # characters of a monitor command's output
_HELD_MAX = 0x1_0000  # characters of text kept for the next resume
_SAID_MAX = framing.PACKET_SIZE // 2 - 1  # bytes of text in one packet: two digits each, after the "O"

# gdb's own signal numbers (GDB manual E.3 Stop Reply Packets: 2 INT, 6 ABRT, 5 TRAP for all else)
_SIGNALS = {target.INTERRUPTED: 2, target.CRASHED: 6}
_NOTES = {
    target.WRITE: "watch:%x;",
    target.READ: "rwatch:%x;",
    target.ACCESS: "awatch:%x;",
    target.HISTORY_BEGIN: "replaylog:begin;",
    target.HISTORY_END: "replaylog:end;",
}
_ASKED_FOR = {target.SOFTWARE: "swbreak", target.HARDWARE: "hwbreak"}  # only for a gdb that knows them
_EXPEDITED = ("rip", "rsp", "rbp", "eflags")  # sent with each stop: gdb asks for them anyway. LLDB takes two digits only


class Session:
    """The protocol's state machine.

    Args:
        target: what is debugged.
        send: takes bytes for the wire.
        post: has a function called soon on the thread that calls ``feed``; from any thread.
        description: the registers gdb is told of.
        crowded: whether so much waits to be sent that no more should be made: gdb does not read.

    Attributes:
        state: STOPPED, RUNNING or NONE (detached, killed, ended).
        over: gdb wants no more; the connection can be closed.
        commanded: a monitor command is on its way.
        refusal: why the target could not be attached to, "" when it could.
        failures: bugs met (exceptions that are no PyvmmError); gdb was told, the session goes on.
    """

    def __init__(
        self,
        debugged: Target,
        send: Callable[[bytes], None],
        post: Callable[[Callable[[], None]], None],
        description: Description = AMD64,
        crowded: Callable[[], bool] = lambda: False,
    ) -> None:
        self.target = debugged
        self.description = description
        self.registers = description.registers
        self.state = NONE
        self.over = False
        self.refusal = ""
        self.failures: list[BaseException] = []
        self.features: set[str] = set()  # gdb's
        self.selected = 0  # the vCPU that registers and memory are read of (Hg)
        self.resumed = -1  # the vCPU that is stepped or continued (Hc), -1 = all
        self.breakpoints: set[tuple[str, int, int]] = set()
        self.last = target.StopEvent(reason=target.ATTACHED)
        self.threads_xml = b""  # between two pieces of it
        self._send = send
        self._post = post
        self._crowded = crowded
        self._pending: deque[tuple[int, bytes]] = deque()
        self._receiver = framing.Receiver()
        self._acks = True
        self._sent = b""  # for a NAK
        self._turn = 0  # counts resumes: the stop of an earlier one is not reported
        self._actions: dict[int, str] = {}
        self._ranges: dict[int, tuple[int, int]] = {}
        self._break_in = False  # Ctrl-C since the resume
        self.commanded = False
        self._given_up = False  # gdb does not wait for its answer
        self._held: deque[str] = deque()
        self._held_size = 0

    # --- the connection ----------------------------------------------------------------------------------------------
    def open(self) -> None:
        """gdb has connected: the machine stops."""
        failed = self._guarded(self.attach)
        self.refusal = framing.unescape(failed[2:]).decode(errors="replace") if failed is not None else ""

    def close(self) -> None:
        """The connection is gone."""
        if self.state != NONE:
            self._guarded(self.detach)

    def feed(self, data: bytes) -> None:
        """Takes what gdb has sent."""
        self._pending.extend(self._receiver.feed(data))
        self.work()

    def work(self) -> None:
        """Does what is asked for, until ``crowded``; call again when that is over."""
        while self._pending and not self.over and not self._crowded():
            if self.commanded:
                self._hurry()
                return
            kind, payload = self._pending.popleft()
            if kind == framing.PACKET:
                self._take(payload)
            elif kind == framing.INTERRUPT:
                self._interrupt()
            elif kind == framing.NAK and self._acks and self._sent:
                self._send(self._sent)
            elif kind == framing.CORRUPT:
                self._send(b"-")
            elif kind == framing.TOO_LONG:
                self._acknowledge()
                self.reply(error("packet longer than PacketSize"))

    def _take(self, packet: bytes) -> None:
        self._acknowledge()
        handler, body, needs_stop = find(packet)
        if handler is None:
            self.reply(b"")
            return
        if needs_stop and self.state != STOPPED:
            self.reply(error("the guest is running" if self.state == RUNNING else "there is no machine: it has ended or was detached"))
            return
        answer: bytes | None = None

        def handle() -> None:
            nonlocal answer
            answer = handler(self, body)

        failed = self._guarded(handle)
        if failed is not None:
            self.reply(failed)
        elif answer is not None:
            self.reply(answer)

    def _guarded(self, act: Callable[[], object]) -> bytes | None:
        """Acts; returns the error reply when that failed."""
        try:
            act()
        except Malformed:
            return b"E01"
        except PyvmmError as problem:
            return error(str(problem))
        except Exception as problem:  # a bug, but the guest and what the user has found out so far are worth more
            self.failures.append(problem)
            del self.failures[:-16]
            return error(f"internal error: {type(problem).__name__}: {problem} (a bug in pyvmm)")
        return None

    def _acknowledge(self) -> None:
        if self._acks:
            self._send(b"+")

    def stop_acknowledging(self) -> None:
        """No-ack mode, from after the next reply on."""
        self.reply(b"OK")
        self._acks = self._receiver.check = False

    def reply(self, payload: bytes) -> None:
        """Sends a packet; run lengths are put in here."""
        self._sent = framing.frame(framing.compress(payload))
        self._send(self._sent)

    @property
    def pending(self) -> bool:
        """Whether ``work`` has something to do."""
        return bool(self._pending) and not self.commanded

    @property
    def running(self) -> bool:
        """Whether a resume waits for its stop."""
        return self.state == RUNNING

    @property
    def attached(self) -> bool:
        """Whether there is a machine that gdb holds."""
        return self.state != NONE

    # --- attached or not ---------------------------------------------------------------------------------------------
    def attach(self) -> None:
        """Stops the machine, when there is one."""
        self._forget()
        self.refusal = ""
        self.last = self.target.attach(self.say)
        self.selected = self.last.vcpu
        self.state = NONE if self.last.reason in (target.EXITED, target.KILLED) else STOPPED

    def detach(self) -> None:
        """Lets the machine go."""
        self._forget()
        self.target.detach()

    def kill(self) -> None:
        """Ends the machine."""
        self._forget()
        self.target.kill()

    def _forget(self) -> None:
        self.state = NONE
        self.commanded = False
        self._turn += 1
        self.breakpoints.clear()
        self._ranges.clear()
        self._held.clear()
        self._held_size = 0
        self.resumed = -1

    # --- run and stop ------------------------------------------------------------------------------------------------
    def resume(self, actions: dict[int, str], ranges: dict[int, tuple[int, int]] | None = None) -> None:
        """Lets vCPUs run or step; one with a range steps until it has left it."""
        self._actions = actions
        self._ranges = ranges or {}
        self.run(lambda stopped: self.target.resume(actions, stopped))

    def run(self, start: Callable[[target.Stopped], None]) -> None:
        """Has the target do something that ends with a stop."""
        self._break_in = False
        self.state = RUNNING
        while self._held:
            self._tell(self._held.popleft())
        self._held_size = 0
        self._start(start)

    def _start(self, start: Callable[[target.Stopped], None]) -> None:
        self._turn += 1
        turn = self._turn
        try:
            start(lambda event: self._post(lambda: self._stopped(event, turn)))
        except BaseException:
            self._turn += 1
            self.state = STOPPED
            raise

    def _interrupt(self) -> None:
        if self.state == RUNNING:
            self._break_in = True
            failed = self._guarded(self.target.interrupt)
            if failed is not None:
                self._tell(framing.unescape(failed[2:]).decode(errors="replace") + "\n")

    def _stopped(self, event: StopEvent, turn: int) -> None:
        if turn != self._turn or self.state != RUNNING:
            return  # of a resume that has been answered, or nobody waits any more
        self._turn += 1  # once
        failed = self._guarded(lambda: self._answer(event))
        if failed is not None:
            self.state = STOPPED
            self.reply(b"T05thread:%x;" % (event.vcpu + 1))

    def _answer(self, event: StopEvent) -> None:
        if event.reason == target.STEPPED and event.vcpu in self._ranges:
            if self._break_in:
                event = event.replace(reason=target.INTERRUPTED)
            else:
                start, end = self._ranges[event.vcpu]
                if start <= self.target.read_registers(event.vcpu).get("rip", end) < end:
                    self._start(lambda stopped: self.target.resume(self._actions, stopped))
                    return
        if event.text:
            self._tell(event.text + "\n")
        self.last = event
        self._ranges = {}
        self.state = STOPPED
        if event.reason in (target.EXITED, target.KILLED):
            self._forget()
        else:
            self.selected, self.resumed = event.vcpu, -1
        self.reply(self.stop_reply())

    def stop_reply(self) -> bytes:
        """Why the machine stands still, as gdb wants it."""
        event = self.last
        if event.reason == target.EXITED:
            return b"W%02x" % (event.value & 0xFF)
        if event.reason == target.KILLED:
            return b"X%02x" % (event.value & 0xFF)
        if self.state == NONE:
            return b"W00"
        text = f"T{_SIGNALS.get(event.reason, 5):02x}thread:{event.vcpu + 1:x};core:{event.vcpu:x};"
        note = _NOTES.get(event.reason, "")
        text += note % event.address if "%" in note else note
        if _ASKED_FOR.get(event.reason) in self.features:
            text += _ASKED_FOR[event.reason] + ":;"
        try:
            values = self.target.read_registers(event.vcpu)
        except PyvmmError:
            values = {}
        for number, register in enumerate(self.registers):
            if register.source in _EXPEDITED and register.source in values:
                text += f"{number:02x}:{register.encode(values[register.source]).hex()};"
        return text.encode()

    # --- text for the user -------------------------------------------------------------------------------------------
    def say(self, text: str) -> None:
        """A line for the user, from any thread; gdb takes it only while the guest runs."""
        self._post(lambda: self._say(text if text.endswith("\n") else text + "\n"))

    def _say(self, text: str) -> None:
        if self.state == RUNNING:
            if not self._crowded():
                self._tell(text)
        elif self.state == STOPPED and self._held_size + len(text) <= _HELD_MAX:
            self._held.append(text)
            self._held_size += len(text)

    def _tell(self, text: str) -> None:
        data = text.encode(errors="replace")
        for at in range(0, len(data), _SAID_MAX):
            self.reply(b"O" + data[at : at + _SAID_MAX].hex().encode())

    # --- monitor -----------------------------------------------------------------------------------------------------
    def command(self, text: str) -> None:
        """Has the target carry out a command of the user's; what it says, and OK, is sent when it has ended."""
        self._turn += 1
        turn = self._turn
        self.commanded, self._given_up = True, False
        try:
            self.target.monitor(text, lambda output: self._post(lambda: self._carried_out(output, turn)))
        except PyvmmError as problem:
            self._carried_out(f"{problem}\n", turn)  # an error reply would hide the words
        except BaseException:
            self.commanded = False
            raise

    def _carried_out(self, output: str, turn: int) -> None:
        if turn != self._turn or not self.commanded:
            return  # the connection is gone
        self.commanded = False
        if not self._given_up:
            if len(output) > _OUTPUT_MAX:
                output = output[:_OUTPUT_MAX] + "\n(cut: too long)\n"
            self._tell(output)
            self.reply(b"OK")
        self.work()

    def _hurry(self) -> None:
        """Something came while a command is on its way: a Ctrl-C, or gdb waits no more and would take the answer for another's."""
        waiting = [each for each in self._pending if each[0] != framing.INTERRUPT]
        interrupted = len(waiting) < len(self._pending)
        self._pending = deque(waiting)
        if interrupted or waiting and not self._given_up:
            self._given_up = self._given_up or any(kind == framing.PACKET for kind, _ in waiting)
            self._guarded(self.target.interrupt)


def error(text: str) -> bytes:
    """An error reply with words. gdb shows them for most packets, and some number for none."""
    return b"E." + framing.escape(" ".join(text.split())[:500].encode(errors="replace"))
