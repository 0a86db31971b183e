"""Runs a Python program on host C: stock kvm_intel of Debian's cloud kernel, in the Bochs emulator.

    python tests/nested/intel.py [--timeout S] [--add SRC[:DST]] ... -- SCRIPT ARG...

The only host to be had anywhere that enforces Intel's entry rules and whose breakpoints work; and a slow one: Python
runs there at a hundredth of its speed. The host holds Debian's Python (standard library only), the packages `pyvmm`
and `guests` of this checkout, and what --add names; the program runs in /app, where those are. Its output is streamed;
its exit status becomes the runner's. Status 125 and one line on stderr mean that the host failed, not the program.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

if __package__ in (None, ""):  # run as a program: make `tests` importable, as pytest does
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.nested import emulator, intel_image, wire
from tests.support import debian

ROOT = Path(__file__).resolve().parents[2]
_BIOS = "/usr/share/bochs/BIOS-bochs-latest"
_VGA_BIOS = "/usr/share/vgabios/vgabios.bin"
PACKAGES = {
    "bochs-bin": "bochs",
    _BIOS: "bochsbios",
    _VGA_BIOS: "vgabios",
    "setpriv": "util-linux",
    **intel_image.PACKAGES,
}
_KERNEL_LINE = (
    # A panic stays where it is: rebooting would only start the CD again.
    "console=ttyS0 quiet panic=0 oops=panic "
    # Self-tests, certificates and calibrations that take most of the boot here and serve no test.
    "mitigations=off nokaslr tsc=reliable no_timer_check cryptomgr.notests "
    "initcall_blacklist=load_system_certificate_list,init_kprobe_trace"
)
_PANIC_MARKS = (b"Kernel panic", b"nested-init: ", b"/init: ")
_BOOT_SECONDS = 240.0  # a half to a whole minute it is; this is for a busy machine
_ALWAYS_IN = ("pyvmm", "guests")


def bochsrc(image: Path, console: Path, log: Path, memory: int) -> str:
    return "\n".join(
        [
            "config_interface: textconfig",
            # There is no display library "none" in Debian's package; this one opens a port and waits for nobody.
            'display_library: rfb, options="timeout=0"',
            f"romimage: file={_BIOS}",
            f"vgaromimage: file={_VGA_BIOS}",
            # Of the models with VMX, the one whose time stamp counter and XSAVE are right.
            "cpu: model=corei7_haswell_4770, count=1, ips=50000000, reset_on_triple_fault=0",
            f"memory: guest={memory}, host={memory}",
            "clock: sync=none, time0=local",
            "ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14",
            f'ata0-master: type=cdrom, path="{image}", status=inserted',
            "boot: cdrom",
            f"com1: enabled=1, mode=file, dev={console}",
            "port_e9_hack: enabled=1",
            # Its default is ALSA, whose mixer thread aborts ("buffer overflow detected") where there is no sound card.
            "sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy",
            f"log: {log}",
            "panic: action=fatal",
            "error: action=ignore",
            "info: action=ignore",
            "debug: action=ignore",
            "debugger_log: -",
            "",
        ]
    )


def job(command: list[str], token: str, environment: dict[str, str]) -> bytes:
    """What intel_launch.py reads."""
    described = {"argv": command, "token": token, "environment": environment, "cwd": "/app", "path": ["/app"]}
    return json.dumps(described).encode()


def environment(extra: list[str]) -> dict[str, str]:
    found = {"PATH": "/bin:/usr/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "PYVMM_NESTED": "intel"}
    for pair in extra:
        name, equals, value = pair.partition("=")
        if not equals:
            raise debian.DebianError(f"--env wants NAME=VALUE, not {pair!r}")
        found[name] = value
    return found


def run_once(options: argparse.Namespace, scratch: Path) -> emulator.Outcome:
    kernel = debian.kernel("cloud")
    token = wire.new_token()
    additions = [intel_image.Addition(ROOT / name, f"/app/{name}") for name in _ALWAYS_IN if (ROOT / name).is_dir()]
    additions += [intel_image.Addition.parse(text) for text in options.add]
    initrd = intel_image.initrd(kernel, job(options.command, token, environment(options.env)), additions)
    image = intel_image.iso(kernel, _KERNEL_LINE, initrd, scratch)
    configuration, start = scratch / "bochsrc", scratch / "start"
    console = scratch / "console.log"
    console.write_bytes(b"")
    configuration.write_text(bochsrc(image, console, scratch / "bochs.log", options.memory))
    start.write_text("c\n")  # Debian's Bochs has the debugger built in, which waits to be told to continue
    return emulator.run(
        ["bochs-bin", "-q", "-f", str(configuration), "-rc", str(start)],
        token=token,
        # No heartbeat: when its guest spins, this host stands still as a whole, rightly or not.
        limits=emulator.Limits(options.timeout, min(_BOOT_SECONDS, options.timeout), silence=float("inf")),
        sink=emulator.to_stdout,
        stderr=scratch / "stderr.log",
        heartbeat=console,
        panic_marks=_PANIC_MARKS,
    )


def explain(outcome: emulator.Outcome, scratch: Path) -> None:
    """The end of what host and emulator said, for a failure that is theirs."""
    (scratch / "stdout").write_bytes(outcome.noise)
    for name in ("stdout", "stderr.log", "bochs.log", "console.log"):
        path = scratch / name
        text = path.read_text(errors="replace").splitlines() if path.exists() else []
        for line in [line for line in text if line.strip()][-15:]:
            print(f"intel: {name}: {line}", file=sys.stderr)
    print(f"intel: HOST FAILED ({outcome.verdict.name}): {outcome.explanation}", file=sys.stderr)


def run(options: argparse.Namespace) -> int:
    debian.require(PACKAGES)
    for attempt in (1, 2):
        with tempfile.TemporaryDirectory(prefix="pyvmm-intel-") as name:
            scratch = Path(name)
            outcome = run_once(options, scratch)
            if options.console:
                options.console.write_bytes((scratch / "console.log").read_bytes())
            if outcome.verdict is not emulator.Verdict.FINISHED:
                explain(outcome, scratch)
        if not outcome.worth_another_try or attempt == 2:
            break
        print("intel: trying once more", file=sys.stderr)
    print(
        f"intel: booted in {outcome.boot_seconds:.1f} s, {outcome.total_seconds:.1f} s in all: {outcome.explanation}",
        file=sys.stderr,
    )
    return outcome.status


def main() -> int:
    parser = argparse.ArgumentParser(description="Run a Python program on a nested Intel KVM host (Bochs).")
    parser.add_argument("--packages", action="store_true", help="print the Debian packages needed, and end")
    parser.add_argument("--timeout", type=float, default=600, metavar="S", help="for boot and program (default 600)")
    parser.add_argument("--memory", type=int, default=512, metavar="MB")
    parser.add_argument("--env", action="append", default=[], metavar="K=V")
    parser.add_argument("--add", action="append", default=[], metavar="SRC[:DST]", help="put a file or directory in")
    parser.add_argument("--console", type=Path, metavar="FILE", help="keep the host's console log")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- SCRIPT ARG...", help="or: -m MODULE, -c CODE")
    options = parser.parse_args()
    if options.packages:
        print("\n".join(sorted(set(PACKAGES.values()))))
        return 0
    if options.command[:1] == ["--"]:
        del options.command[0]
    if not options.command:
        parser.error("no SCRIPT")
    emulator.signals_raise()
    try:
        return run(options)
    except debian.DebianError as error:
        print(f"intel: {error}", file=sys.stderr)
        return emulator.HOST_FAILED
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
