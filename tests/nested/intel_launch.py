"""Runs inside host C, once it is up: executes the job in a child and carries its output out through port 0xE9.

Bochs prints each byte written to that port. A serial line would be the usual way, but it is paced like a real one,
and at power-off its last bytes are still waiting.
"""

from __future__ import annotations

import json
import os
import runpy
import sys

_PORT = 0xE9
_BYTES = [bytes((value,)) for value in range(256)]


def _send(port: int, data: bytes) -> None:
    # One call for each byte: a longer write to /dev/port would go on to the ports that follow.
    for value in data:
        os.pwrite(port, _BYTES[value], _PORT)


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
    port = os.open("/dev/port", os.O_WRONLY | os.O_CLOEXEC)
    mark = "\x1epyvmm:" + job["token"]
    _send(port, f"{mark}:start\n".encode())
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
        _send(port, data)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    _send(port, f"{mark}:exit {code if code >= 0 else 128 - code}\n".encode())


if __name__ == "__main__":
    main()
