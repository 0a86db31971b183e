"""The sandbox from inside: children enter it and try what they may not."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import pyvmm
from pyvmm.cli.options import Options
from pyvmm.errors import ConfigError
from pyvmm.sandbox import enter, landlock, policy, seccomp

ROOT = Path(pyvmm.__file__).resolve().parents[1]
needs_landlock = pytest.mark.skipif(not landlock.abi(), reason="this kernel has no Landlock")
needs_seccomp = pytest.mark.skipif(not seccomp.available(), reason="this kernel has no seccomp filters")
pytestmark = [needs_landlock, needs_seccomp]


def inside(body: str, *options: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Runs ``body`` in a process that has closed its sandbox; its globals have ``named`` and ``other``, two files with "text"."""
    named, other = tmp_path / "named", tmp_path / "other"
    named.write_text("text")
    other.write_text("text")
    before, _, after = body.partition("---\n")
    arguments = ["-kernel", str(named), "-sandbox", "on", *options]
    script = f"import ctypes, os, signal, socket, sys, threading\nnamed, other = {str(named)!r}, {str(other)!r}\n"
    script += "from pyvmm.cli.options import Options\n" + textwrap.dedent(before)
    script += f"Options({arguments!r}).seal()\n" + textwrap.dedent(after)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=60)


def refused(body: str, error: str, *options: str, tmp_path: Path) -> None:
    """Asserts that the last line raises an OSError of that name, rather than end the process or work."""
    *lines, last = textwrap.dedent(body).strip().splitlines()
    script = "\n".join([*lines, "---"] if "---" not in lines else lines) + "\n"
    script += f"try:\n    {last}\nexcept OSError as error:\n    print(type(error).__name__)\nelse:\n    print('it worked')\n"
    ended = inside(script, *options, tmp_path=tmp_path)
    assert ended.stdout == error + "\n", f"{ended.returncode} {ended.stdout} {ended.stderr}"


def test_the_named_file_may_be_read_again_others_not(tmp_path: Path) -> None:
    ended = inside("---\nprint(open(named).read())", tmp_path=tmp_path)
    assert ended.stdout == "text\n", ended.stderr
    for attempt in (
        "open(other)",
        "open(named, 'w')",
        "open('/etc/passwd')",
        "os.unlink(other)",
        "os.mkdir(other + '2')",
        "os.listdir('/')",
    ):
        refused(attempt, "PermissionError", tmp_path=tmp_path)
    assert (tmp_path / "named").read_text() == "text" and (tmp_path / "other").exists()


def test_what_was_open_stays_open(tmp_path: Path) -> None:
    ended = inside(
        "f = open(other, 'r+')\n---\nf.seek(4)\nf.write('more')\nf.flush()\nos.fsync(f.fileno())\nprint('done')", tmp_path=tmp_path
    )
    assert ended.stdout == "done\n" and (tmp_path / "other").read_text() == "textmore", ended.stderr


@pytest.mark.parametrize(
    "attempt",
    ["os.execv('/bin/true', ['true'])", "os.setuid(0)", "os.chroot('/')", "os.unshare(0)" if hasattr(os, "unshare") else "os.chroot('.')"],
)
def test_what_only_a_stranger_would_call_ends_the_process(attempt: str, tmp_path: Path) -> None:
    ended = inside(f"---\n{attempt}\nprint('it worked')", tmp_path=tmp_path)
    assert ended.returncode == -31 and ended.stdout == "", f"{ended.returncode} {ended.stdout} {ended.stderr}"  # SIGSYS


def test_no_process_may_be_started_threads_may(tmp_path: Path) -> None:
    assert inside("---\nos.fork()", tmp_path=tmp_path).returncode != 0
    refused("os.fork()", "PermissionError", tmp_path=tmp_path)
    ended = inside("---\nthread = threading.Thread(target=lambda: print('thread'))\nthread.start()\nthread.join()", tmp_path=tmp_path)
    assert ended.stdout == "thread\n", ended.stderr


def test_sockets_are_for_networks(tmp_path: Path) -> None:
    refused("socket.socket()", "PermissionError", tmp_path=tmp_path)
    refused("a, b = socket.socketpair()\n---\nsocket.socket(socket.AF_UNIX)", "PermissionError", tmp_path=tmp_path)
    ended = inside("---\nsocket.socket()\nprint('made')", "-nic", "user", tmp_path=tmp_path)
    assert ended.stdout == "made\n", ended.stderr
    refused("socket.socket(socket.AF_NETLINK)", "PermissionError", "-nic", "user", tmp_path=tmp_path)


def test_signals_reach_only_this_process(tmp_path: Path) -> None:
    refused("os.kill(os.getppid(), 0)", "PermissionError", tmp_path=tmp_path)
    body = "signal.signal(signal.SIGUSR1, lambda *_: print('kicked'))\n---\nsignal.pthread_kill(threading.get_ident(), signal.SIGUSR1)"
    ended = inside(body, tmp_path=tmp_path)
    assert ended.stdout == "kicked\n", ended.stderr


def test_nobody_types_for_the_user(tmp_path: Path) -> None:
    refused(
        "import fcntl\nmaster, slave = os.openpty()\n---\nfcntl.ioctl(slave, 0x5412, b'x')", "PermissionError", tmp_path=tmp_path
    )  # TIOCSTI


def test_privileges_are_gone(tmp_path: Path) -> None:
    names = ("NoNewPrivs", "CapEff", "CapBnd", "Seccomp:")
    body = f"status = open('/proc/self/status')\n---\nprint([line.split()[1] for line in status if line.startswith({names})])"
    ended = inside(body, tmp_path=tmp_path)
    bound = "0" * 16 if os.geteuid() == 0 else ended.stdout.split("'")[3]  # only who has CAP_SETPCAP can empty the bounding set
    assert ended.stdout == f"['{'0' * 16}', '{bound}', '1', '2']\n", ended.stdout + ended.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_runas_and_chroot(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    options = ("-runas", "65534:65534", "-chroot", str(empty), "-no-reboot")
    ended = inside("---\nprint(os.getuid(), os.geteuid(), os.getgid(), os.getegid())", *options, tmp_path=tmp_path)
    assert ended.stdout == "65534 65534 65534 65534\n", ended.stderr
    refused("os.stat('/etc')", "FileNotFoundError", *options, tmp_path=tmp_path)


def test_layers_can_be_left_out(tmp_path: Path) -> None:
    ended = inside("---\nprint(open('/etc/passwd').readline()[:4])", "-sandbox", "on,landlock=off", tmp_path=tmp_path)
    assert ended.stdout == "root\n", ended.stderr
    ended = inside("---\nsocket.socket()\nprint('made')", "-sandbox", "on,seccomp=off", tmp_path=tmp_path)
    assert ended.stdout == "made\n", ended.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["-sandbox", "maybe"], "-sandbox maybe: write -sandbox on|off"),
        (["-sandbox", "on,spawn=allow"], "always denies"),
        (["-sandbox", "on,frobnicate=on"], "not known; there are landlock=on|off and seccomp=on|off"),
        (["-runas", "nobody-of-that-name"], "no such user"),
        (["-runas", "1:x"], "no such user"),
        (["-run-with", "async-teardown=on"], "there are user=USER and chroot=DIR"),
        (["-chroot", "/"], "add -no-reboot"),
    ],
)
def test_wrong_options(options: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says.replace("|", r"\|")):
        Options(["hello", *options])


def test_qemus_own_spelling_is_taken() -> None:
    line = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
    assert Options(["hello", "-sandbox", line]).seal is not None
    assert Options(["hello", "-sandbox", "off"]).seal is None


# Not part of a machine that runs: start-up (done when the door closes), other commands, and what a user asks for at a monitor.
_BEFORE = ("cli", "sandbox", "observe", "snapshot", "testing", "hostcheck", "probes", "catalogue")
_START = {
    "open_drive", "_open_image", "_refuse_other_formats", "overlay", "make", "__init__", "open_netdev", "_open", "open_passt", "open_user",
    "populate", "_add_pci_testdev", "_add_testdev", "plan_image", "recognise", "_recognise_elf", "platform_tables", "rsdp_address", "_nics",
    "_plug", "_blk", "_rng", "_serial", "_console", "_close", "help_text", "create_vm", "_choose_run", "create_vcpu", "_build_vcpus",
    "e1000", "virtio_net", "_backend", "trace", "quiesce", "save", "load", "track", "render_json", "_firmware", "files", "plan",
}  # fmt: skip


def test_what_is_imported_late_is_warm() -> None:
    late: set[str] = set()
    for path in (ROOT / "pyvmm").rglob("*.py"):
        if path.relative_to(ROOT / "pyvmm").parts[0].removesuffix(".py") in _BEFORE:
            continue
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef) and function.name not in _START:
                for node in ast.walk(function):
                    if isinstance(node, ast.Import):
                        late.update(alias.name for alias in node.names)
                    elif isinstance(node, ast.ImportFrom) and node.module:
                        names = (
                            [f"{node.module}.{alias.name}" for alias in node.names]
                            if node.module in ("pyvmm", "pyvmm.boot")
                            else [node.module]
                        )
                        late.update(names)
    known = {*enter.WARM, "os", "pyvmm.errors"}
    assert late <= known, late - known


def test_images_of_the_command_line_are_named() -> None:
    config = Options(["-kernel", "/boot/k", "-initrd", "/boot/a args,/boot/b"]).config
    assert config is not None
    assert {"/boot/k", "/boot/a", "/boot/b", "/dev/kvm"} <= set(policy.paths(config))
    config = Options(["-bios", "/boot/f", "-device", "e1000,romfile=/boot/r"]).config
    assert config is not None
    assert {"/boot/f", "/boot/r"} <= set(policy.paths(config))
