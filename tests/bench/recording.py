"""What recording costs: Debian's cloud kernel to power-off, plain and recorded in turns, on the KVM at hand (Linux must boot on it).

python tests/nested/amd.py --smp 1 --timeout 1500 [--icount] -- python tests/bench/recording.py [PAIRS]

Under --icount the CPU's seconds are instructions, and the same each time; the clock's are not.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random
from resource import RUSAGE_CHILDREN, getrusage
from time import perf_counter

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pyvmm.observe.recording.reader import Recording  # noqa: E402
from tests.support import linux  # noqa: E402

LIMIT = "900"


def boot(environment: dict[str, str], *command: str) -> tuple[float, float]:
    """Seconds of the whole process: of the clock, and of the CPU."""
    arguments = [
        "-kernel", str(linux.image("cloud", "bzimage")), "-initrd", str(linux.initrd()), "-append", "console=ttyS0", "-m", "256",
        "-no-reboot", "--timeout", LIMIT,
    ]  # fmt: skip
    began, before = perf_counter(), getrusage(RUSAGE_CHILDREN)
    ended = subprocess.run(
        [sys.executable, "-m", "pyvmm", *command, *arguments], capture_output=True, stdin=subprocess.DEVNULL, env=environment, cwd=ROOT
    )
    after = getrusage(RUSAGE_CHILDREN)
    assert ended.returncode == 0 and linux.READY.encode() in ended.stdout, ended.stderr.decode()
    return perf_counter() - began, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def seeks(path: str) -> tuple[float, float]:
    """Seconds to open it, and for the slowest of some seeks with a look at memory."""
    began = perf_counter()
    with Recording.open(path) as recording:
        opened, slowest, chance = perf_counter() - began, 0.0, Random(1)
        for _ in range(20):
            began = perf_counter()
            state = recording.state(chance.randint(0, recording.count))
            state.memory.read(chance.randrange(0x100_0000, 0x200_0000), 64)
            slowest = max(slowest, perf_counter() - began)
        print(f"{recording.count} exits, {len(recording.keyframes)} keyframes, {recording.bytes / 1e6:.1f} MB")
    return opened, slowest


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/linux.pvm"
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": f"{folder}/bytecode"}  # which an installed pyvmm has
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        subprocess.run([sys.executable, "-m", "compileall", "-q", "pyvmm"], env=environment, cwd=ROOT, check=True)
        for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 1):
            plain, recorded = boot(environment, "run"), boot(environment, "record", "-o", path)
            opened, slowest = seeks(path)
            print(f"plain {plain[0]:.1f} s, recorded {recorded[0]:.1f} s: {recorded[0] / plain[0]:.2f} times; of the CPU {plain[1]:.2f} s, "
                  f"{recorded[1]:.2f} s: {recorded[1] / plain[1]:.2f} times; opened in {opened:.2f} s, slowest seek {slowest:.2f} s",
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
