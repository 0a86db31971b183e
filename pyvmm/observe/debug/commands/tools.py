"""help, quit, files of commands, Python, snapshots."""

from __future__ import annotations

import contextlib
import io
import os

from pyvmm.observe.debug.command import GROUPS, Command, CommandError, Line, Reply
from pyvmm.observe.debug.commands.info import INFO
from pyvmm.observe.debug.hooks import describe
from pyvmm.observe.debug.style import table
from pyvmm.observe.explain.text import wrap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.observe.debug.session import Session

_MORE = (
    "Beginnings of names will do (cont, disas). Enter alone repeats a step. help NAME tells more, help GROUP lists one of the above, "
    "and expressions what can stand for a value."
)
_LARGEST = 1 << 20  # bytes of a file of commands


def _help(session: Session, line: Line) -> Reply:
    style, words = line.style, line.words
    if words:
        table = INFO if words[0] in ("info", "i") and len(words) > 1 else session.commands
        if words[0].lower() in GROUPS and len(words) == 1:
            return Reply(text=_group(session, words[0].lower(), line))
        command = table.find(words[-1])
        lines = [style.title(("info " if table is INFO else "") + command.usage), command.help]
        lines += ["also: " + ", ".join(command.aliases)] if command.aliases else []
        lines += [command.more] if command.more else []
        return Reply(text="\n".join(lines), data={"usage": command.usage, "help": command.help, "aliases": list(command.aliases)})
    lines = []
    for group in GROUPS:
        lines += [_group(session, group, line), ""]
    lines += wrap(_MORE, style.width)
    return Reply(text="\n".join(lines), data={name: command.help for name, command in session.commands.commands.items()})


def _group(session: Session, group: str, line: Line) -> str:
    rows = []
    for each in session.commands.commands.values():
        if each.group == group:
            short = f" ({each.aliases[0]})" if each.aliases and len(each.aliases[0]) < 5 else ""
            arguments = each.arguments if len(each.arguments) < 12 else "..."
            rows.append((f"{each.name}{short} {arguments}".rstrip(), each.help))
    return "\n".join([line.style.title(f"{group}: {GROUPS[group]}"), *table(rows, 28, line.style)])


def _expressions(session: Session, line: Line) -> Reply:
    from pyvmm.observe.debug import expression

    return Reply(text=(expression.__doc__ or "").strip())


def _quit(session: Session, line: Line) -> Reply:
    return Reply(leave=True)


def _source(session: Session, line: Line) -> Reply:
    path = os.path.expanduser(line.one("a file"))
    if path.endswith(".py"):
        return run_file(session, path)
    return session.source(read(path).splitlines(), path, line.style)


def read(path: str) -> str:
    """A text file. Raises CommandError."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read(_LARGEST + 1)
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from None
    except ValueError:
        raise CommandError("a path has no NUL in it") from None
    if len(text) > _LARGEST:
        raise CommandError(f"{path}: over 1 MiB: this is no file of commands")
    return text


# --- Python ------------------------------------------------------------------------------------------------------------
def _python(session: Session, line: Line) -> Reply:
    if not line.text:
        raise CommandError("give a file, or a line of Python", usage=True)
    if line.text == "off":
        session.hooks.clear()
        return Reply(text="no hook is called any more")
    if line.text.endswith(".py"):
        return run_file(session, os.path.expanduser(line.text))
    space = session.hooks.globals
    space.setdefault("__name__", "pyvmm")
    space["guest"] = session
    return _run(session, line.text, "<python>", space)


def run_file(session: Session, path: str) -> Reply:
    """Executes a file of the user's, and takes its hooks."""
    space: dict[str, Any] = {"__name__": "pyvmm", "__file__": path, "guest": session}
    reply = _run(session, read(path), path, space)
    if not reply.error:
        found = session.hooks.take(path, space)
        hooked = f"{path}: {' and '.join(found)} will be called" if found else ""
        reply.text = "\n".join(each for each in (reply.text, hooked) if each)
    return reply


def _run(session: Session, text: str, name: str, space: dict[str, Any]) -> Reply:
    """Executes text; an expression's value is shown."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), session.hooks.running():
            try:
                code = compile(text, name, "eval")
            except SyntaxError:
                exec(compile(text, name, "exec"), space)
                value = None
            else:
                value = eval(code, space)
            if value is not None:
                print(repr(value))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit as well: the user's file does not end the debugger
        return Reply(text=f"{printed.getvalue()}{describe(error, name)}", data={"error": str(error)}, error=True)
    return Reply(text=printed.getvalue().rstrip("\n"), data={"output": printed.getvalue()})


def _save(session: Session, line: Line) -> Reply:
    path = line.one("a file")
    if session.save is None:
        raise CommandError("a recording is a file already: there is no machine here to take a snapshot of")
    note = session.save(os.path.expanduser(path))
    return Reply(text=f"{path}: the machine as it is now; pyvmm run GUEST ... --load {path} goes on from here{note}", data={"file": path})


def _symbol_file(session: Session, line: Line) -> Reply:
    from pyvmm.observe import symbols  # the screens of guests without names need none of this

    if line.text:
        found = symbols.load(os.path.expanduser(line.one("a file")))
    else:
        from pyvmm.observe.report import kallsyms

        kernel = kallsyms.find(session.subject.memory, [list(each) for each in session.subject.layout.ram])
        if kernel is None:
            raise CommandError("no Linux kernel's table of names is in the guest's memory yet: a compressed kernel unpacks itself first")
        found = kernel
    session.symbols = found
    return Reply(text=f"{len(found)} names from {found.source}", data={"names": len(found), "source": found.source})


def _echo(session: Session, line: Line) -> Reply:
    return Reply(text=line.text.replace("\\n", "\n").rstrip("\n"), data={"text": line.text})


COMMANDS = (
    Command(
        name="help",
        aliases=("?", "apropos"),
        arguments="[NAME]",
        group="tools",
        run=_help,
        standing=False,
        completes=("command",),
        help="this list; more about one command",
    ),
    Command(name="expressions", group="tools", run=_expressions, standing=False, help="what can stand where a value is wanted"),
    Command(name="quit", aliases=("q", "exit", "kill"), group="tools", run=_quit, standing=False, help="leave; a live guest ends"),
    Command(
        name="source",
        aliases=("so",),
        arguments="FILE",
        group="tools",
        run=_source,
        completes=("file",),
        help="carry out the commands in a file",
    ),
    Command(
        name="python",
        aliases=("py", "pi"),
        arguments="FILE.py | CODE | off",
        group="tools",
        run=_python,
        completes=("file",),
        help="Python: a line of it, or a file whose on_exit(exit) and on_stop(stop) are called",
        more="""\
def on_exit(exit):          after each exit while the guest runs; returning True stops there
    if exit.name == "KVM_EXIT_IO" and exit.fields["port"] == 0x80: print(exit.explain().line)
guest.execute("back 10")    the debugger's commands; guest.subject has registers, memory, devices""",
    ),
    Command(
        name="save",
        aliases=("savevm",),
        arguments="FILE",
        group="tools",
        run=_save,
        completes=("file",),
        help="a snapshot of the whole machine, for pyvmm run --load",
    ),
    Command(
        name="symbol-file",
        aliases=("file", "kallsyms"),
        arguments="[FILE]",
        group="tools",
        run=_symbol_file,
        completes=("file",),
        help="names from an ELF file or a System.map; without a file those a Linux kernel carries in its memory",
        more="A kernel's own are right under KASLR, and there once it has unpacked itself. Modules' names are not among them.",
    ),
    Command(name="echo", arguments="TEXT", group="tools", run=_echo, standing=False, help="print a text"),
)
