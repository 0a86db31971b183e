"""``pyvmm-qemu``: for programs that expect a QEMU, above all kvm-unit-tests' runner: ``QEMU=pyvmm-qemu ./run_tests.sh``.

``pyvmm run`` has QEMU's spellings already. What is added here is how a QEMU presents itself (-help, -version, -device help) and what
such programs look for in its messages. An option that pyvmm lacks is refused by its name, never ignored: the guest would be another.
"""

from __future__ import annotations

import os

from pyvmm import __version__, cli, status
from pyvmm.cli.options import FLAGS, MACHINE_NAMES, WITH_VALUE, Options, help_text
from pyvmm.errors import ConfigError, ImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.config import Config

# kvm-unit-tests takes the version of the QEMU from the first line of the help (scripts/arch-run.bash, env_params)
_VERSION = "QEMU emulator version 7.2.0 (pyvmm {version}, not a QEMU: its options on pyvmm's machine)"
_QUESTIONS = ("?", "help")


def main(arguments: list[str]) -> int:
    """Runs one command line (without the program's name). Returns the exit status; errors have status 2, never 1.

    QEMU's own errors end with 1, which is what a guest's success looks like (isa-debug-exit).
    """
    return cli.guard(lambda: _main(arguments))


def _main(arguments: list[str]) -> int:
    text = _answer(arguments)
    if text:
        print(text)
        return status.OK
    _check(arguments)
    return cli.main(["run", *arguments])


def _answer(arguments: list[str]) -> str:
    """What -help, -version, -device help and the like print; "" for a command line that is to boot something."""
    version = _VERSION.format(version=__version__)
    flags = [argument.lstrip("-") for argument in arguments if argument.startswith("-")]
    if "help" in flags or "h" in flags:
        return f"{version}\nusage: pyvmm-qemu OPTIONS\n{help_text().partition(chr(10))[2].rstrip()}"
    if "version" in flags:
        return version
    for option, value in zip(arguments, arguments[1:], strict=False):
        if option.startswith("-") and value in _QUESTIONS:
            return _list(option.lstrip("-"))
    return ""


def _list(option: str) -> str:
    """What there is to choose from; "" for an option that has no such list."""
    if option == "device":
        from pyvmm.cli.devices import DEVICES

        return "\n".join(f'name "{name}"' for name in DEVICES)  # in quotes: the runner looks for "pc-testdev" with them
    if option in ("machine", "M"):
        return "Supported machines are (all the same one):\n" + "\n".join(MACHINE_NAMES)
    if option == "cpu":
        from pyvmm import cpuid

        return cpuid.help_text()
    return "Accelerators supported:\nkvm" if option == "accel" else ""


def _check(arguments: list[str]) -> None:
    """Refuses in QEMU's words what ``pyvmm run`` would refuse in others, or take for something else.

    Raises:
        ConfigError: an option is not known, or another mistake.
        ImageError: a file is not there.
    """
    rest = iter(arguments)
    for argument in rest:
        name, equals, _ = argument.lstrip("-").partition("=")
        if not argument.startswith("-"):
            raise ConfigError(f"'{argument}': a disk image as a word of its own is not supported: write -drive file={argument},format=raw")
        if name in WITH_VALUE:
            if not equals:
                next(rest, None)
        elif name not in FLAGS:
            from pyvmm.cli.hints import instead

            known = ", ".join(f"-{each}" for each in sorted({*FLAGS, *WITH_VALUE}, key=str.lower))
            raise ConfigError(instead(name, next(rest, "")) or f"-{name}: pyvmm does not have this option of QEMU's; it has {known}")
    config = Options(arguments).config
    if config is None:
        return
    try:
        os.close(os.open(config.boot.kernel, os.O_RDONLY | os.O_CLOEXEC))
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        _check_cpu(config)  # QEMU looks at the processor before it looks for the kernel: the runner learns so that a test cannot run
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"could not open kernel file '{config.boot.kernel}': {reason}") from None  # the runner looks for these words


def _check_cpu(config: Config) -> None:
    """Raises ConfigError for a processor that there is not; nothing where KVM cannot be asked."""
    from pyvmm.cpuid import Cpuid
    from pyvmm.errors import HostError
    from pyvmm.kvm.system import Kvm

    try:
        with Kvm() as kvm:
            Cpuid(kvm, config.cpu or "host", config.smp)
    except HostError:
        pass


def entry() -> None:
    """Console entry point."""
    cli.entry(main)
