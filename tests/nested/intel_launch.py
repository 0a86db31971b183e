"""Runs inside host C, once it is up: executes the job in a child and carries its output out through port 0xE9.

Bochs prints each byte written to that port. A serial line would be the usual way, but it is paced like a real one,
and at power-off its last bytes are still waiting.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import runpy
import sys
from collections.abc import Callable

_PORT = 0xE9
# void send(const char *data, size_t length), in the System V calling convention. (Debian's kernel has no /dev/port.)
_SEND_CODE = (
    b"\x48\x89\xf1"  # mov rcx, rsi
    b"\x48\x89\xfe"  # mov rsi, rdi
    b"\xba"
    + _PORT.to_bytes(4, "little")  # mov edx, _PORT
    + b"\xf3\x6e"  # rep outsb
    b"\xc3"  # ret
)


def _open_port() -> Callable[[bytes], None]:
    """Permission for the port, and a function that writes bytes to it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ioperm(_PORT, 1, 1) != 0:
        raise OSError(ctypes.get_errno(), "ioperm")
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(_SEND_CODE)
    code = ctypes.c_char.from_buffer(page)
    function = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_size_t)(ctypes.addressof(code))

    def send(data: bytes, _keep_mapped: ctypes.c_char = code) -> None:
        function(data, len(data))

    return send


def _execute(argv: list[str]) -> None:
    """What `python ARG...` would do. In this process: starting a second Python takes seconds here."""
    if argv[0] == "-c":
        sys.argv = ["-c", *argv[2:]]
        exec(compile(argv[1], "<string>", "exec"), {"__name__": "__main__"})
    elif argv[0] == "-m":
        sys.argv = argv[1:]
        sys.path.insert(0, os.getcwd())
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = argv
        sys.path.insert(0, os.path.dirname(os.path.abspath(argv[0])))
        runpy.run_path(argv[0], run_name="__main__")


def main() -> None:
    with open("/job.json") as handle:
        job = json.load(handle)
    os.environ.clear()
    os.environ.update(job["environment"])
    sys.path[:0] = job["path"]
    os.chdir(job["cwd"])
    send = _open_port()
    mark = "\x1epyvmm:" + job["token"]
    send(f"{mark}:start\n".encode())
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        os.close(reader)
        os.close(writer)
        # Line by line, as somebody watches. (Were it an interactive terminal, it would be so by itself.)
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        _execute(job["argv"])
        sys.exit(0)
    os.close(writer)
    while data := os.read(reader, 4096):
        send(data)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    send(f"{mark}:exit {code if code >= 0 else 128 - code}\n".encode())


if __name__ == "__main__":
    main()
