"""A debugging session over a subject: what the user has chosen and made, and ``execute``, which every front end calls.

The terminal prompt, ``pyvmm run``'s monitor, gdb's ``monitor`` and the socket differ in what they do with a Reply, in nothing else.
"""

from __future__ import annotations

from contextlib import nullcontext

from pyvmm.backends.stderr import one_line
from pyvmm.errors import PyvmmError
from pyvmm.observe.debug import registers
from pyvmm.observe.debug.command import Command, CommandError, Line, Reply
from pyvmm.observe.debug.conditions import WATCH
from pyvmm.observe.debug.expression import ALL, Value, evaluate
from pyvmm.observe.debug.hooks import Hooks
from pyvmm.observe.debug.look import Look
from pyvmm.observe.debug.places import Places
from pyvmm.observe.debug.style import PLAIN, printable
from pyvmm.observe.debug.subject import BREAKPOINT, END, EXIT, Moment, Stop, SubjectError
from pyvmm.observe.paging import code_bits, read_linear, walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from pyvmm.observe.debug.style import Style
    from pyvmm.observe.debug.subject import Subject

    class Symbols(Protocol):
        """Names of addresses in the guest."""

        def find(self, name: str) -> tuple[int, int] | None:
            """(linear address, size or 0)"""

        def nearest(self, address: int) -> tuple[str, int] | None:
            """(name, how far behind it)"""

        def names(self) -> list[str]:
            """All of them."""


_DEEPEST = 8  # files that source files
_KEPT = 1000  # values printed


class Session:
    """See the module.

    Args:
        subject: what is debugged.
        symbols: the guest's, None when it has none.
        type_: gives bytes to the guest's console; None: there is no way.
        save: writes a snapshot to a path and returns what there is to add; None: there is nothing to take one of.
        cpuid: a vCPU's CPUID leaves; None: not known.

    Attributes:
        vcpu: the one that registers, instructions and addresses mean.
        look: the state at the last stop, to compare with.
        conditions: number of a breakpoint -> what must hold for it to stop.
        watched: number of a watchpoint -> the bytes it saw last.
        settings: see commands/settings.py.
        from_boot: exit 0 is where the guest began; else where somebody has come to look.
        foreground: makes what is entered while the guest runs at full speed: the guest's turn at the terminal.
    """

    def __init__(
        self,
        subject: Subject,
        symbols: Symbols | None = None,
        type_: Callable[[bytes], None] | None = None,
        save: Callable[[str], str] | None = None,
        cpuid: Callable[[int], list[Any]] | None = None,
    ) -> None:
        from pyvmm.observe.debug.commands import COMMANDS

        self.subject = subject
        self.symbols = symbols
        self.type = type_
        self.save = save
        self.cpuid = cpuid
        self.commands = COMMANDS
        self.vcpu = 0
        self.conditions: dict[int, str] = {}
        self.watched: dict[int, bytes] = {}
        self.foreground: Callable[[], Any] = nullcontext
        self.hooks = Hooks()
        self.values: list[int] = []
        self.variables: dict[str, int] = {}
        self.settings: dict[str, str] = {"context": "on"}
        self.examined: tuple[str, int] | None = None  # x's format and where it goes on
        self.look: Look | None = None
        self.from_boot = True
        self._sourcing = 0
        self._interrupted = False

    # --- commands ----------------------------------------------------------------------------------------------------
    def find(self, line: str) -> tuple[Command, str, str]:
        """The command of a line, what stands behind its slash, and its arguments. Raises CommandError."""
        line = line.strip()
        at = 0
        while at < len(line) and (line[at].isalnum() or line[at] in "-_?!"):
            at += 1
        word, rest = line[:at], line[at:]
        if not word:
            raise CommandError(f"'{line[:40]}' is no command: help lists them")
        format_ = ""
        apart = rest.lstrip()  # x /4i $rip, as QEMU's monitor and gdb also take it
        if rest.startswith("/") or apart.startswith("/") and self.commands.find(word).name in _FORMATTED:
            format_, _, rest = apart[1:].partition(" ")
        elif rest and not rest[0].isspace() and rest[0] not in "*$&({'\"0123456789-+=":
            raise CommandError(f"no command '{line.split()[0][:40]}': help lists them")
        return self.commands.find(word), format_, rest

    def execute(self, line: str, style: Style = PLAIN) -> Reply:
        """Carries out one line. Never raises for anything a user can write or a guest can do."""
        line = line.strip()
        if not line or line.startswith("#"):
            return Reply()
        command: Command | None = None
        try:
            command, format_, rest = self.find(line)
            if format_ and command.name not in _FORMATTED:
                raise CommandError(f"/{format_[:20]} means nothing to it", usage=True)
            if command.standing and self.subject.running:
                raise CommandError("the guest is running: stop it first (Ctrl-C, or stop)")
            return command.run(self, Line(rest, format_, style))
        except CommandError as error:
            usage = f" (usage: {command.usage})" if command is not None and error.usage else ""
            return self._failed(command, f"{error}{usage}")
        except PyvmmError as error:
            return self._failed(command, str(error))
        except OSError as error:
            return self._failed(command, f"{error.filename or 'the file'}: {error.strerror or error}")
        except KeyboardInterrupt:
            return self._failed(command, "interrupted")
        except RecursionError:
            return self._failed(command, "that is nested too deeply")
        except Exception as error:  # a bug here must not cost the user his session
            from pyvmm.events import vmm_error

            reason = vmm_error(error)
            reply = self._failed(command, reason.detail)
            reply.text += f"\n{reason.report}" if reason.report else ""  # PYVMM_DEBUG
            return reply

    @staticmethod
    def _failed(command: Command | None, text: str) -> Reply:
        text = one_line(f"{command.name}: {text}" if command is not None else text)
        return Reply(text=text, data={"error": text}, error=True)

    def source(self, lines: list[str], name: str, style: Style) -> Reply:
        """Carries out several lines; the first that fails ends it. What they say comes together."""
        if self._sourcing >= _DEEPEST:
            raise CommandError(f"{name}: files that source files more than {_DEEPEST} deep")
        self._sourcing += 1
        said: list[str] = []
        try:
            for number, line in enumerate(lines, 1):
                reply = self.execute(line, style)
                if reply.error:
                    return Reply(text="\n".join([*said, f"{name}:{number}: {reply.text}"]), data=reply.data, error=True)
                said += [reply.text] if reply.text else []
                if reply.leave:
                    return Reply(text="\n".join(said), leave=True)
        finally:
            self._sourcing -= 1
        return Reply(text="\n".join(said))

    # --- moving ------------------------------------------------------------------------------------------------------
    def move(self, go: Callable[[], Stop], style: Style, again: bool = False, running: bool = False) -> Reply:
        """Moves, then shows where one is.

        Args:
            go: a method of the subject.
            running: the guest runs at full speed: the terminal is its own meanwhile.
            again: go on when every breakpoint that was hit has a condition that does not hold.
        """
        from pyvmm.observe.debug.views.context import context

        if self.look is None:
            self.look = Look.of(self.subject, self.vcpu)
        self._interrupted = False
        with self.foreground() if running else nullcontext():
            while True:
                stop = go()
                self.vcpu = stop.vcpu if 0 <= stop.vcpu < self.subject.vcpus else 0
                if not (again and stop.why == BREAKPOINT and self._passed(stop)) or self._interrupted:
                    break
        notes = self.hooks.stopped(self, stop)
        before, self.look = self.look, Look.of(self.subject, self.vcpu)
        said, data = context(self, stop, before, self.look, style)
        self._see_watched()
        if self.settings["context"] == "off":
            said = said.split("\n", 1)[0]
        return Reply(text="\n".join([*notes, said]), data=data)

    def stopped(self, style: Style) -> Reply:
        """Where one is, as after a move; compares with the last stop all the same."""
        return self.move(lambda: self.subject.stop, style)

    def interrupt(self) -> None:
        """Ends the move on its way. Any thread, signal handlers too."""
        self._interrupted = True
        self.subject.interrupt()

    def run(self) -> Stop:
        """Until a breakpoint or the end; exit by exit where hooks want to see each."""
        if not self.hooks.on_exit:
            return self.subject.run()
        while True:
            stop = self.subject.step(1)
            if stop.why != EXIT or self.hooks.exit(self, stop) or self._interrupted:
                return stop

    def _see_watched(self) -> None:
        """Notes what watchpoints see now, for "old -> new" the next time."""
        for each in self.subject.breakpoints:
            if each.kind == WATCH:
                try:
                    self.watched[each.number] = self.some(each.first, min(each.last - each.first + 1, 8))
                except PyvmmError:
                    self.watched.pop(each.number, None)

    def _passed(self, stop: Stop) -> bool:
        """Whether every breakpoint hit has a condition that does not hold."""
        if not stop.hits:
            return False
        for number in stop.hits:
            text = self.conditions.get(number)
            if text is None:
                return False
            try:
                if evaluate(text, self).number:
                    return False
            except CommandError:
                return False  # better to stop once too often
        return True

    # --- Scope of expressions ------------------------------------------------------------------------------------------
    @property
    def word(self) -> int:
        """Bytes of an address in the guest's mode."""
        return code_bits(self.subject.sregs(self.vcpu)) // 8

    def register(self, name: str) -> int | None:
        return registers.read(self.subject, self.vcpu, name)

    def variable(self, name: str) -> int | None:
        if name in ("", "$"):
            back = 1 + len(name)
            return self.values[-back] if len(self.values) >= back else None
        if name.isdigit():
            return self.values[int(name) - 1] if 0 < int(name[:9]) <= len(self.values) else None
        return self.variables.get(name)

    def symbol(self, name: str) -> tuple[int, int] | None:
        return self.symbols.find(name) if self.symbols is not None else None

    def device_names(self) -> list[str]:
        return list(self.subject.devices())

    def device(self, path: str) -> Any:
        states = self.subject.devices()
        name = max((each for each in states if path == each or path.startswith((f"{each}.", f"{each}["))), key=len)
        found: Any = states[name]
        for part in path[len(name) :].replace("[", ".").replace("]", "").split(".")[1:]:
            if isinstance(found, dict):
                found = found[part] if part in found else found[int(part, 0)]
            elif isinstance(found, (list, bytes, bytearray)):
                found = found[int(part, 0)]
            else:
                raise KeyError(part)
        return found

    def load(self, address: int, size: int) -> int:
        return int.from_bytes(self.linear(address, size), "little")

    # --- memory --------------------------------------------------------------------------------------------------------
    def linear(self, address: int, length: int) -> bytes:
        """Linear memory of the chosen vCPU, all of it. Raises CommandError, which says where it ends."""
        data = self.some(address, length)
        if len(data) < length:
            raise CommandError(self.unreadable(address + len(data)))
        return data

    def some(self, address: int, length: int) -> bytes:
        """Likewise, up to the first byte that is not there."""
        return read_linear(self.subject.memory, self.subject.sregs(self.vcpu), address & ALL, length)

    def unreadable(self, address: int) -> str:
        """Why nothing is there."""
        found = walk(self.subject.memory, self.subject.sregs(self.vcpu), address & ALL)
        return f"{address & ALL:#x} {found.fault or f'is guest physical {found.gpa:#x}, where there is no memory'}"

    def place(self, address: int) -> str:
        """ " <main+4>" for an address near a symbol, else ""."""
        found = self.symbols.nearest(address) if self.symbols is not None else None
        return f" <{printable(found[0])}{f'+{found[1]:#x}' if found[1] else ''}>" if found is not None else ""

    @property
    def places(self) -> Places:
        """Device registers, ports and addresses by name."""
        return Places(self.subject.layout)

    def remember(self, value: int) -> int:
        """Notes a value printed; returns its number."""
        if len(self.values) >= _KEPT:
            del self.values[: _KEPT // 2]
        self.values.append(value)
        return len(self.values)

    def value(self, text: str) -> Value:
        """An expression's value."""
        return evaluate(text, self)

    def at(self) -> Moment:
        """When we are."""
        return self.subject.stop.at

    def ended(self) -> bool:
        """Whether there is nothing ahead."""
        return self.subject.stop.why == END


_FORMATTED = ("x", "xp", "print", "set", "disassemble", "history", "explain")

__all__ = ["Session", "SubjectError"]
