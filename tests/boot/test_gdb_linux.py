"""A real gdb at stock Linux: a hardware breakpoint at a symbol of the kernel, from before its first instruction."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import features, initramfs, linux
from tests.support.process import wait_until
from tests.support.symbolfile import FUNCTION, GLOBAL, TEXT, Entry, executable

GDB = shutil.which("gdb")
pytestmark = [
    pytest.mark.kvm("ring0-simd", "cmpxchg16b"),
    pytest.mark.linux,
    pytest.mark.skipif(GDB is None, reason="gdb is not installed (apt-get install gdb)"),
]
LIMIT = 240.0
_INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc
/bin/busybox mount -t proc proc /proc
/bin/busybox grep -wE '_text|start_kernel|x86_64_start.*|secondary_startup_64.*' /proc/kallsyms
/bin/busybox poweroff -f
"""
_APPEND = "console=ttyS0 quiet nokaslr"


def symbols(kernel: Path, tmp_path: Path) -> Path:
    """Debian's kernel has no symbol table; the running one says where its functions are."""
    initrd = tmp_path / "initrd"
    initrd.write_bytes(initramfs.build(_INIT))
    ended = features.run_pyvmm(
        "run",
        "-kernel",
        str(kernel),
        "-initrd",
        str(initrd),
        "-append",
        _APPEND,
        "-m",
        "256",
        "-no-reboot",
        "--timeout",
        str(LIMIT),
        timeout=LIMIT,
    )
    found = {name: int(address, 16) for address, name in re.findall(r"([0-9a-f]{16}) [Tt] (\w+)", ended.stdout.decode("latin-1"))}
    assert "start_kernel" in found, ended.stdout[-2000:]
    base = found.pop("_text")
    entries: list[Entry] = [(name, address, 0, FUNCTION, GLOBAL, TEXT) for name, address in found.items()]
    path = tmp_path / "symbols.elf"
    path.write_bytes(executable(b"", entries, linear=base, physical=0x100_0000, memory=0x400_0000))
    return path


def test_hbreak_start_kernel_and_backtrace(tmp_path: Path) -> None:
    kernel = linux.image("cloud", "vmlinux")
    names = symbols(kernel, tmp_path)
    socket = tmp_path / "gdb"
    run = subprocess.Popen(
        [
            sys.executable, "-m", "pyvmm", "run", "-kernel", str(kernel), "-initrd", str(linux.initrd()), "-append", _APPEND, "-m", "256",
            "-no-reboot", "--timeout", str(LIMIT), "-S", "-gdb", f"unix:{socket}",
        ],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        wait_until(socket.exists, "pyvmm listens")
        assert GDB is not None
        commands = (
            f"target remote {socket}", "hbreak start_kernel", "continue", "backtrace 2", *["stepi"] * 2, "x/i $pc", "delete", "continue",
        )  # fmt: skip
        said = subprocess.run(
            [GDB, "-nx", "-batch", "-iex", "set pagination off", "-iex", "set remotetimeout 60", str(names)]
            + [each for command in commands for each in ("-ex", command)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT,
        ).stdout  # fmt: skip
        printed = run.communicate(timeout=LIMIT)[0]
    finally:
        run.kill()
    assert re.search(r"Breakpoint 1, 0x[0-9a-f]+ in start_kernel \(\)", said), said
    assert re.search(r"#1  0x[0-9a-f]+ in (x86_64_start|secondary_startup)", said), said
    assert "exited normally" in said and run.returncode == 0, said
    assert linux.READY in printed
