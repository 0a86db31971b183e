"""``-gdb ADDRESS`` and ``-s`` on any run: the server that gdb's ``target remote`` connects to."""

from __future__ import annotations

import threading

from pyvmm import status
from pyvmm.backends.stderr import say
from pyvmm.boot import bootparams, elf
from pyvmm.errors import ConfigError
from pyvmm.observe.debug.gdbtarget import GdbTarget
from pyvmm.observe.debug.holder import RunHolder
from pyvmm.observe.gdb.registers import AMD64, I386, I8086
from pyvmm.observe.gdb.server import GdbServer, parse_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.cli.run import Session

_DESCRIPTIONS = {"i386": I386, "amd64": AMD64, "i8086": I8086}
_HEAD = 1024  # bytes that tell: a boot sector and a setup sector
_TELL_SECONDS = 2.0  # for gdb to be told how the guest has ended


def attach(session: Session, text: str, paused: bool) -> None:
    """Has gdb see a session's machines.

    Args:
        text: of -gdb: ``tcp:[HOST]:PORT`` or ``unix:PATH``; behind it ``,history=on`` for reverse execution, and ``,arch=`` for
            the registers that gdb is told of, by default those of the guest's ELF file or Linux kernel: gdb takes no others with it.
        paused: -S: the guest waits for gdb.

    Raises:
        ConfigError: no such address, or it is taken.
    """
    words = text.split(",")
    history = _option(text, words, "history", ("on", "off"), "off")
    config = session.config
    arch = _option(text, words, "arch", tuple(_DESCRIPTIONS), "i386" if _is_32_bit(config.boot.kernel) else "amd64")
    address = parse_address(",".join(words))
    if session.seal is not None:
        raise ConfigError("-gdb and -sandbox, -runas or -chroot: a debugger needs what they give up: leave one of them out")
    if history == "on":
        session.config = config = config.replace(coalesce=False)  # each write to the console is an exit to stop at
    holder = RunHolder(config.smp, history == "on", name=config.boot.kernel)
    target = GdbTarget(holder, status.of)
    server = GdbServer(target, address, _DESCRIPTIONS[arch])
    session.observers.append(holder.begin)
    session.leavers.append(holder.end)

    def close() -> None:
        holder.over()
        target.wait(_TELL_SECONDS)
        told = threading.Event()
        server.post(lambda: server.post(told.set))  # behind the stop that says so, and a turn in which it is sent
        told.wait(_TELL_SECONDS)
        server.close()

    session.closing.append(close)
    server.start()
    if paused:
        say(f"pyvmm: waiting for gdb: target remote {server.address.for_gdb}")


def _option(text: str, words: list[str], name: str, values: tuple[str, ...], default: str) -> str:
    """Takes NAME=VALUE out of the words; the last counts."""
    given = [word for word in words if word.startswith(f"{name}=")]
    for word in given:
        words.remove(word)
        if word.removeprefix(f"{name}=") not in values:
            raise ConfigError(f"-gdb {text}: write {' or '.join(f'{name}={value}' for value in values)}")
    return given[-1].removeprefix(f"{name}=") if given else default


def _is_32_bit(path: str) -> bool:
    """Whether gdb will have a 32-bit file with it: this one, or the vmlinux of a Linux without a 64-bit entry (boot.rst, xloadflags)."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False  # whoever boots it says so
    if head[:5] == elf.MAGIC + bytes([elf.CLASS32]):
        return True
    is_linux = head[0x202:0x206] == bootparams.MAGIC and bootparams.get(head, "version") >= bootparams.SETUP_HEADER["xloadflags"][2]
    return is_linux and not bootparams.get(head, "xloadflags") & bootparams.XLF_KERNEL_64
