"""The console: 64 KiB, polled, byte by byte."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from tests.bench import contestants
from tests.bench.exits import inside
from tests.bench.samples import Measure, paired
from tests.bench.sections import Section

NAME, ROUNDS = "serial", 5
_FEW = 8  # lines
_LINE = 64


def _pair(commands: list[list[str]], status: int, size: int) -> Mapping[str, float]:
    many, few = (contestants.launch(command, status) for command in commands)
    if many.size != size:
        raise RuntimeError(f"{commands[0][0]}: {many.size} bytes came out, not {size}")
    return {"bytes/s": (many.size - few.size) / (many.wall - few.wall) * 1000, "cpu": (many.cpu - few.cpu) / (many.size - few.size) * 1e6}


def user_exits(command: list[str]) -> int | None:
    """kvm:kvm_userspace_exit of a run; None where perf or the tracepoint is not to be had."""
    if shutil.which("perf") is None:
        return None
    counted = ["perf", "stat", "-x,", "-e", "kvm:kvm_userspace_exit", *command]
    done = subprocess.run(counted, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=contestants.RUN_TIMEOUT)
    found = re.search(r"^(\d+),[^,]*,kvm:kvm_userspace_exit", done.stderr, re.MULTILINE)
    return int(found[1]) if found else None


def _exits_per_byte(commands: list[list[str]], difference: int) -> str:
    counts = [user_exits(command) for command in commands]
    return "not counted (no perf)" if None in counts else f"{(counts[0] - counts[1]) / difference:.2f}"  # type: ignore[operator]


def measure(rounds: int) -> Section:
    contestants.need(contestants.QEMU[0], "qemu-system-x86")
    code = (contestants.GUESTS / "serial-poll" / "serial-poll.bin").read_bytes()
    lines = contestants.count_of(code)
    size = lines * _LINE
    section = Section(
        name=NAME,
        title="Serial console",
        how=f"A guest polls LSR and writes {size >> 10} KiB to COM1 byte by byte; the console is a pipe. Bytes per second and CPU time per "
        f"byte by the difference to a run of {_FEW} lines, so start-up does not count; median (quartiles, min), {rounds} rounds. "
        "User-space exits by `perf stat -e kvm:kvm_userspace_exit`, by the same difference.",
        header=["", "pyvmm", "pyvmm -no-coalesce", "QEMU microvm", "pyvmm / QEMU"],
    )
    with tempfile.TemporaryDirectory() as scratch:
        images = {}
        for name, each in (("many", code), ("few", contestants.with_count(code, _FEW))):
            images[name] = Path(scratch, f"{name}.bin"), Path(scratch, f"{name}.elf")
            images[name][0].write_bytes(each)
            images[name][1].write_bytes(contestants.multiboot(each))
        pyvmm = [contestants.installed(), "run", "--format", "flat32"]
        commands = {
            "pyvmm": [[*pyvmm, str(images[name][0])] for name in images],
            "one by one": [[*pyvmm, "-no-coalesce", str(images[name][0])] for name in images],
            "QEMU": [[*contestants.QEMU, *contestants.QEMU_EXIT, "-kernel", str(images[name][1])] for name in images],
        }
        who: dict[str, Measure] = {name: partial(_pair, pair, int(name == "QEMU"), size) for name, pair in commands.items()}
        results = paired(who, rounds)
        for quantity, label in (("bytes/s", "bytes per second"), ("cpu", "CPU time, ns per byte")):
            ratio = results["pyvmm"][quantity].over(results["QEMU"][quantity])
            section.rows.append([label, *(results[name][quantity].spread(0) for name in commands), ratio.spread(2)])
        per_byte = [_exits_per_byte(pair, size - _FEW * _LINE) for pair in commands.values()]
        section.rows.append(["user-space exits per byte", *per_byte, ""])
        section.raw = {name: {key: samples.values for key, samples in found.items()} for name, found in results.items()}
        section.raw["exits inside pyvmm"] = inside(images["many"][0], "flat32", "--count")[0]
    return section
