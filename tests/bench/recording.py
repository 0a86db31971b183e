"""What recording costs: Debian's cloud kernel to power-off, plain and recorded in turns, on the KVM at hand (Linux must boot on it).

python tests/nested/amd.py --smp 1 --timeout 1500 -- python tests/bench/recording.py [PAIRS]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pyvmm.observe.recording.reader import Recording
from tests.support import linux

LIMIT = "900"


def boot(*command: str) -> float:
    """Seconds of the whole process."""
    arguments = [
        "-kernel", str(linux.image("cloud", "bzimage")), "-initrd", str(linux.initrd()), "-append", "console=ttyS0", "-m", "256",
        "-no-reboot", "--timeout", LIMIT,
    ]  # fmt: skip
    began = perf_counter()
    ended = subprocess.run([sys.executable, "-m", "pyvmm", *command, *arguments], capture_output=True, stdin=subprocess.DEVNULL)
    assert ended.returncode == 0 and linux.READY.encode() in ended.stdout, ended.stderr.decode()
    return perf_counter() - began


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
        for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 1):
            plain, recorded = boot("run"), boot("record", "-o", path)
            opened, slowest = seeks(path)
            print(f"plain {plain:.1f} s, recorded {recorded:.1f} s: {recorded / plain:.2f} times; opened in {opened:.2f} s, "
                  f"slowest seek {slowest:.2f} s", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
