"""Runs a command on host B: stock kvm_amd of Debian's kernel, under QEMU's TCG with nested SVM.

    python tests/nested/amd.py [--timeout S] [--results DIR] ... -- COMMAND ARG...

The command sees this machine's files (read-only, its own changes go to memory and are lost), runs in the current
directory with the current PATH, and has /dev/kvm, /dev/net/tun and tracefs, as root. Its output is streamed; its
exit status becomes the runner's. Status 125 and one line on stderr mean that the host failed, not the command. A host
that locks up (nested SVM under TCG does, rarely) is tried once more; a failing command never is.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):  # run as a program: make `tests` importable, as pytest does
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.nested import emulator, wire
from tests.support import cpio, debian, initramfs

PACKAGES = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": initramfs.BUSYBOX_PACKAGE,
    "setpriv": "util-linux",
    "/usr/lib/x86_64-linux-gnu/libslirp.so.0": "libslirp0",  # behind -netdev user, for pyvmm's tests in there; QEMU needs it anyway
}
# virtio_ring first: virtio_pci finds its rings only when it is there. The rest follows its own dependencies.
_SYSTEM_MODULES = ("virtio_ring", "virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay", "tun", "vhost_net")
_KVM_MODULES = ("kvm", "kvm_amd")
_INIT = Path(__file__).with_name("amd_init.sh")
_KERNEL_LINE = (
    # A panic reboots at once, which -no-reboot turns into the end of QEMU. A CPU stuck for a minute (twice the
    # threshold) and a kernel bug are such panics too: either would leave tests hanging or, worse, wrong.
    "console=ttyS0 quiet panic=-1 oops=panic softlockup_panic=1 watchdog_thresh=30 "
    # Emulated, these cost much and protect nobody.
    "mitigations=off random.trust_cpu=on"
)
_PANIC_MARKS = (b"Kernel panic", b"soft lockup - CPU", b"nested-init: ", b"/init: ")
_BOOT_SECONDS = 120.0
AGAIN = 75  # exit status with --once: the host locked up or did not boot, which another boot usually mends (EX_TEMPFAIL)
_SILENCE_SECONDS = 90.0


@dataclass(frozen=True)
class Job:
    """What is to run in there, and where."""

    command: tuple[str, ...]
    cwd: Path
    environment: Mapping[str, str]
    results: Path | None

    def script(self) -> str:
        lines = ["#!/bin/sh"]
        lines += [f"export {name}={shlex.quote(value)}" for name, value in self.environment.items()]
        lines += [f"cd {shlex.quote(str(self.cwd))} || exit 126", f"exec {shlex.join(self.command)}"]
        return "\n".join(lines) + "\n"


def environment(extra: Sequence[str]) -> dict[str, str]:
    """What the command's environment holds: little, so that a run does not depend on who started it."""
    found = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(Path.home()),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "PYTHONUNBUFFERED": "1",  # its output is a pipe, and somebody watches
        "PYTHONDONTWRITEBYTECODE": "1",  # would only fill the memory that carries the overlay
        "PYVMM_NESTED": "amd",  # for tests that must know where they are
        "PYVMM_CACHE": str(debian.cache_dir()),
    }
    for pair in extra:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise debian.DebianError(f"--env wants NAME=VALUE, not {pair!r}")
        found[name] = value
    return found


def qemu_command(kernel: Path, initrd: Path, console: Path, results: Path | None, options: argparse.Namespace) -> list[str]:
    # A comma ends an option's value, unless it is doubled.
    shares = [("root", "/", "on")] + ([("results", str(results).replace(",", ",,"), "off")] if results else [])
    command = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    command += ["-accel", f"tcg,thread={'single' if options.icount else 'multi'}", "-cpu", "max,+svm,+npt"]
    command += ["-smp", str(options.smp), "-m", str(options.memory)]
    if options.icount:  # an instruction takes 2 ns by every clock in there, however busy this machine is; idle time passes at once
        command += ["-icount", "shift=1,sleep=off"]
    command += ["-kernel", str(kernel), "-initrd", str(initrd), "-append", _KERNEL_LINE]
    # The kernel's console and the command's output go different ways: nothing a test prints (a guest's own panic,
    # say) is taken for the host's, and nothing the host says gets into the output.
    command += ["-chardev", f"file,id=console,path={str(console).replace(',', ',,')}", "-serial", "chardev:console"]
    # Not chardev stdio: that one hangs up, and the guest's writes block, when QEMU's stdin ends.
    command += ["-chardev", "file,id=out,append=on,path=/dev/fd/1", "-device", "virtio-serial-pci"]
    command += ["-device", "virtserialport,chardev=out,nr=1"]
    for tag, path, readonly in shares:
        share = f"local,path={path},security_model=none,mount_tag={tag},readonly={readonly},multidevs=remap"
        command += ["-virtfs", share]
    if options.net:  # behind the others: the port for the output is named after its place among virtio's devices
        command += ["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net"]
    return command


def run_once(job: Job, options: argparse.Namespace, scratch: Path, base: bytes) -> tuple[emulator.Outcome, Path]:
    token = wire.new_token()
    initrd = scratch / "initrd"
    variables = f"TOKEN={token}\nRESULTS={shlex.quote(str(job.results or ''))}\n"
    # The kernel unpacks archives that follow one another, so the job need not be mixed into the prepared one.
    job_files = [cpio.file("job.env", variables.encode()), cpio.file("job.sh", job.script().encode())]
    initrd.write_bytes(base + cpio.archive(job_files))
    console = scratch / "console.log"
    console.write_bytes(b"")
    kernel = debian.kernel("generic").vmlinux()
    patience = 10 if options.icount else 1  # it is slower, and chosen where other work keeps this machine busy
    outcome = emulator.run(
        qemu_command(kernel, initrd, console, job.results, options),
        token=token,
        limits=emulator.Limits(options.timeout, min(patience * _BOOT_SECONDS, options.timeout), patience * _SILENCE_SECONDS),
        sink=emulator.to_stdout,
        stderr=scratch / "stderr.log",
        heartbeat=console,
        panic_marks=_PANIC_MARKS,
    )
    return outcome, console


def explain(outcome: emulator.Outcome, scratch: Path) -> None:
    """The end of what the host said, for a failure that is its own."""
    for name in ("stderr.log", "console.log"):
        text = (scratch / name).read_text(errors="replace").splitlines()
        for line in [line for line in text if line.strip() not in ("", "alive")][-25:]:
            print(f"amd: {name}: {line}", file=sys.stderr)
    print(f"amd: HOST FAILED ({outcome.verdict.name}): {outcome.explanation}", file=sys.stderr)


def run(options: argparse.Namespace) -> int:
    debian.require(PACKAGES)
    if options.results:
        options.results.mkdir(parents=True, exist_ok=True)
        options.results = options.results.resolve()
    job = Job(tuple(options.command), Path.cwd(), environment(options.env), options.results)
    kernel = debian.kernel("generic")
    system = (*_SYSTEM_MODULES, "virtio_net") if options.net else _SYSTEM_MODULES
    modules = initramfs.modules(kernel, system, "modules/system.order")
    modules += initramfs.modules(kernel, _KVM_MODULES, "modules/kvm.order")
    base = initramfs.build(_INIT.read_text(), extra=modules)
    for attempt in (1, 2):
        with tempfile.TemporaryDirectory(prefix="pyvmm-amd-") as name:
            scratch = Path(name)
            outcome, console = run_once(job, options, scratch, base)
            if options.console:
                options.console.write_bytes(console.read_bytes())
            if outcome.verdict is not emulator.Verdict.FINISHED:
                explain(outcome, scratch)
        if not outcome.worth_another_try or attempt == 2 or options.once:
            break
        print("amd: trying once more", file=sys.stderr)
    print(
        f"amd: booted in {outcome.boot_seconds:.1f} s, {outcome.total_seconds:.1f} s in all: {outcome.explanation}",
        file=sys.stderr,
    )
    return AGAIN if options.once and outcome.worth_another_try else outcome.status


def main() -> int:
    parser = argparse.ArgumentParser(description="Run a command on a nested AMD KVM host (QEMU TCG).")
    parser.add_argument("--packages", action="store_true", help="print the Debian packages needed, and end")
    parser.add_argument("--timeout", type=float, default=600, metavar="S", help="for boot and command (default 600)")
    parser.add_argument("--memory", type=int, default=4096, metavar="MB")
    parser.add_argument("--smp", type=int, default=1, metavar="N", help="emulated CPUs (default 1: more fail now and then)")
    parser.add_argument("--icount", action="store_true", help="clocks in there count instructions: figures that noise cannot touch")
    parser.add_argument("--net", action="store_true", help="a network card: servers of this machine are at 10.0.2.2 in there")
    parser.add_argument("--env", action="append", default=[], metavar="K=V")
    parser.add_argument("--once", action="store_true", help=f"no second try when the host locks up: status {AGAIN} then")
    parser.add_argument("--results", type=Path, metavar="DIR", help="shared writable, under the same path")
    parser.add_argument("--console", type=Path, metavar="FILE", help="keep the host's console log")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ARG...")
    options = parser.parse_args()
    if options.packages:
        print("\n".join(sorted(set(PACKAGES.values()))))
        return 0
    if options.command[:1] == ["--"]:
        del options.command[0]
    if not options.command:
        parser.error("no COMMAND")
    emulator.signals_raise()
    try:
        return run(options)
    except debian.DebianError as error:
        print(f"amd: {error}", file=sys.stderr)
        return emulator.HOST_FAILED
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
