"""The user's own Python: functions called at exits and stops.

A hook file is plain Python. What it defines by these names is called:

    def on_exit(exit): ...    after each exit while the guest runs (``continue``); True stops there
    def on_stop(stop): ...    after each stop

``exit`` has number, vcpu, name ("KVM_EXIT_IO"), fields, data, answer, and ``exit.explain()``; ``stop`` is the Stop. The file finds
``guest``, the session, in its globals: ``guest.execute("info registers")``, ``guest.subject``. A hook that raises is taken out, and its
error shown: the guest lives.
"""

from __future__ import annotations

from contextlib import contextmanager

from pyvmm import exits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from pyvmm.observe.debug.session import Session
    from pyvmm.observe.debug.subject import Stop
    from pyvmm.observe.explain.explain import Explanation


class HookedExit:
    """One exit, for a hook."""

    def __init__(self, session: Session, number: int) -> None:
        self._session = session
        record = session.subject.exit(number)
        exit = exits.thaw(record.frozen)
        self.number = number
        self.vcpu = record.vcpu
        self.time = record.time
        self.rip = record.rip
        self.answer = record.answer
        self.name = exit.name
        self.fields = exit.fields
        self.data = exit.data

    def explain(self) -> Explanation:
        """In words: ``str(exit.explain().line)``."""
        return self._session.subject.explain(self.number)


class Hooks:
    """Those there are, by kind; each with the name of its file."""

    def __init__(self) -> None:
        self.on_exit: dict[str, Callable[[HookedExit], Any]] = {}
        self.on_stop: dict[str, Callable[[Stop], Any]] = {}
        self.globals: dict[str, Any] = {}  # of one-liners
        self.busy = 0  # code of the user's is being executed
        self._notes: list[str] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Code of the user's is: Ctrl-C may have to end that, not the guest."""
        self.busy += 1
        try:
            yield
        finally:
            self.busy -= 1

    def take(self, name: str, namespace: dict[str, Any]) -> list[str]:
        """Adds what a file has defined, in place of what it defined before; returns the hooks' names."""
        found = []
        for kind, table in (("on_exit", self.on_exit), ("on_stop", self.on_stop)):
            table.pop(name, None)
            if callable(namespace.get(kind)):
                table[name] = namespace[kind]
                found.append(kind)
        return found

    def clear(self) -> None:
        """Takes all out."""
        self.on_exit.clear()
        self.on_stop.clear()

    def exit(self, session: Session, stop: Stop) -> bool:
        """Shows an exit to all; whether somebody wants to stop (one that fails does)."""
        number = stop.exit or stop.at.exit
        wanted = False
        for name, hook in list(self.on_exit.items()):
            try:
                with self.running():
                    wanted = bool(hook(HookedExit(session, number))) or wanted
            except Exception as error:
                self._failed(name, "on_exit", error)
                del self.on_exit[name]
                wanted = True
        return wanted

    def stopped(self, session: Session, stop: Stop) -> list[str]:
        """Tells all of a stop; returns what went wrong, here and before, in lines."""
        for name, hook in list(self.on_stop.items()):
            try:
                with self.running():
                    hook(stop)
            except Exception as error:
                self._failed(name, "on_stop", error)
                del self.on_stop[name]
        notes, self._notes = self._notes, []
        return notes

    def _failed(self, name: str, kind: str, error: Exception) -> None:
        self._notes.append(f"{name}: {kind} raised {describe(error, name)}; it is called no more")


def describe(error: BaseException, name: str) -> str:
    """ "ValueError: no (line 3)": an error in a user's file."""
    line = 0
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == name:
            line = trace.tb_lineno
        trace = trace.tb_next
    if isinstance(error, SyntaxError):
        line = error.lineno or line
    text = f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}".split("\n")[0]
    return text + (f" (line {line})" if line else "")
