"""The debugger's prompt: lines from a person or a file, replies to the terminal.

At a terminal there are line editing, completion and a history file; Ctrl-C stops a guest that runs, and twice at the prompt leaves.
"""

from __future__ import annotations

import os
import sys

from pyvmm.csignal import signal
from pyvmm.observe.debug.completion import DELIMITERS, candidates
from pyvmm.observe.debug.style import of_terminal
from pyvmm.observe.debug.suspend import Suspension

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

    from pyvmm.observe.debug.command import Reply
    from pyvmm.observe.debug.session import Session
    from pyvmm.observe.debug.style import Style

PROMPT = "(pyvmm) "
_HISTORY = 2000  # lines


class Prompt:
    """Reads lines and carries them out until somebody wants to leave.

    Args:
        session: what they are carried out in.
        source: where they come from.
        out: where replies go.
        batch: leave at the first that fails, and at the end of what was given.
        execute, complete: in place of the session's own: a monitor's.
    """

    def __init__(
        self,
        session: Session,
        source: TextIO | None = None,
        out: TextIO | None = None,
        batch: bool = False,
        execute: Callable[[str, Style], Reply] | None = None,
        complete: Callable[[str, str], list[str]] | None = None,
    ) -> None:
        self.session = session
        self.execute = execute or session.execute
        self.complete = complete or (lambda line, word: candidates(session, line, word))
        self.source = source if source is not None else sys.stdin
        self.out = out if out is not None else sys.stdout
        self.batch = batch
        self.failed = False
        self.moving = False
        self.reading = False
        self.leaving = False
        self._last = ""  # for an empty line
        self._interrupts = 0
        self._editor: Editor | None = None

    @property
    def style(self) -> Style:
        """What the terminal is like now."""
        return of_terminal(self.out, self.session.settings.get("color", "auto"))

    @property
    def interactive(self) -> bool:
        """Whether a person types."""
        return self.source.isatty() and self.source is sys.stdin

    # --- carrying out --------------------------------------------------------------------------------------------------
    def do(self, line: str) -> bool:
        """Carries out one line and shows the reply. Returns whether to go on."""
        self.moving = True
        try:
            reply = self.execute(line, self.style)
        finally:
            self.moving = False
        self.show(reply)
        return not (reply.leave or self.leaving or reply.error and self.batch)

    def show(self, reply: Reply) -> None:
        """Writes a reply."""
        self.failed = self.failed or reply.error
        if reply.text:
            text = self.style.error(reply.text) if reply.error else reply.text
            self.out.write(text + "\n")
            self.out.flush()

    def run(self, commands: list[str]) -> None:
        """Carries out what the command line gave; then, unless in batch mode, what is typed."""
        before = self._catch_interrupts()
        try:
            for line in commands:
                if self.interactive or self.out.isatty():
                    self.out.write(f"{PROMPT}{line}\n")
                if not self.do(line):
                    return
            if not self.batch:
                with Suspension(self.source.fileno() if self.interactive else -1, self.come_back):
                    self._converse()
        finally:
            if before is not None:
                signal.signal(signal.SIGINT, before)

    def _catch_interrupts(self) -> object:
        try:
            return signal.signal(signal.SIGINT, self._on_interrupt)
        except ValueError:  # not the main thread: whoever has it deals with signals
            return None

    def _on_interrupt(self, *_: object) -> None:
        if self.moving:
            self.new_line()
            self.session.interrupt()
            if self.session.hooks.busy and not self.session.subject.running:
                raise KeyboardInterrupt  # in the user's Python, which may have a loop of its own
        elif self.reading:
            raise KeyboardInterrupt

    def leave(self) -> bool:
        """Has the prompt end: for a signal handler. False: it is waiting for a line, and only an exception gets it out of there."""
        self.leaving = True
        if self.moving:
            self.session.interrupt()
        return not self.reading

    def new_line(self) -> None:
        """Behind the ^C that a terminal has shown."""
        try:
            import termios
        except ImportError:  # Windows
            return
        try:
            if termios.tcgetattr(self.source.fileno())[3] & termios.ECHO:
                self.out.write("\n")
        except (OSError, ValueError, termios.error):
            pass  # no terminal

    def come_back(self) -> None:
        """The shell has let us go on (``fg``), and has written on our line."""
        if self.reading and self._editor is not None:
            self.out.write(PROMPT + self._editor.typed())
            self.out.flush()

    # --- reading -------------------------------------------------------------------------------------------------------
    def _converse(self) -> None:
        self._editor = editor = Editor(self.complete) if self.interactive else None
        try:
            while True:
                line = self._read(editor)
                if line is None:
                    return
                if not line.strip():
                    line = self._last if editor is not None else ""
                self._last = self._repeatable(line)
                if not self.do(line):
                    return
        finally:
            if editor is not None:
                editor.close()

    def _read(self, editor: Editor | None) -> str | None:
        """The next line; None at the end."""
        self.reading = True
        try:
            if editor is None:
                line = self.source.readline()
                return line.rstrip("\n") if line else None
            line = editor.read(PROMPT, self.style)
            self._interrupts = 0
            return line
        except EOFError:
            self.out.write("\n")
            return None
        except KeyboardInterrupt:
            if editor is not None and editor.typed():  # a line that is not wanted, and no wish to leave
                self._interrupts = 0
                self.out.write("\n")
                return "#"
            self._interrupts += 1
            if self._interrupts > 1 or editor is None:
                self.out.write("\n")
                return None
            self.out.write("\n(once more, or quit, leaves)\n")
            self.out.flush()
            return "#"
        finally:
            self.reading = False

    def _repeatable(self, line: str) -> str:
        """What an empty line after this one does: moves again, shows the next piece of memory; of other commands nothing."""
        from pyvmm.observe.debug.command import CommandError

        try:
            command, format_, _ = self.session.find(line)
        except CommandError:
            return ""
        if not command.repeats:
            return ""
        return f"{command.name}{'/' + format_ if format_ else ''}" if command.name in ("x", "xp") else line


class Editor:
    """GNU readline, where Python has it: editing, completion, history over sessions."""

    def __init__(self, complete: Callable[[str, str], list[str]]) -> None:
        self._candidates = complete
        self._offered: list[str] = []
        self._path = history_path()
        try:
            import readline
        except ImportError:  # Windows
            self._readline = None
            return
        self._readline = readline
        readline.set_completer_delims(DELIMITERS)
        readline.set_completer(self._complete)
        readline.parse_and_bind("bind ^I rl_complete" if "libedit" in (readline.__doc__ or "") else "tab: complete")
        readline.set_history_length(_HISTORY)
        try:
            readline.read_history_file(self._path)
        except OSError:
            pass  # the first time

    def read(self, prompt: str, style: Style) -> str:
        """One line. EOFError, KeyboardInterrupt."""
        if style.colour and self._readline is not None:
            prompt = f"\001\033[1;34m\002{prompt}\001\033[0m\002"  # \001 and \002: readline does not count what is between
        return input(prompt)

    def typed(self) -> str:
        """What stood on the line that ``read`` has not come to the end of."""
        return self._readline.get_line_buffer() if self._readline is not None else ""

    def close(self) -> None:
        """Keeps the history for the next time; where that cannot be written, without."""
        if self._readline is None:
            return
        self._readline.set_completer(None)
        try:
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            self._readline.write_history_file(self._path)
        except OSError:
            pass

    def _complete(self, text: str, state: int) -> str | None:
        if not state and self._readline is not None:
            line = self._readline.get_line_buffer()[: self._readline.get_endidx()]
            self._offered = self._candidates(line, text)
            if len(self._offered) == 1 and line.lstrip().partition(" ")[0] in (text, "info", "i", "help"):
                self._offered = [self._offered[0] + " "]
        return self._offered[state] if state < len(self._offered) else None


def history_path() -> str:
    """XDG_STATE_HOME/pyvmm/history (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(base, "pyvmm", "history")
