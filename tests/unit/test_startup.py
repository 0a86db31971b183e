"""The import diet: what booting a Multiboot or flat guest may not import, because a VMM is judged by its start-up."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("dataclasses", "typing", "enum", "re", "argparse", "inspect", "collections.abc", "pathlib", "logging", "json", "tempfile",
         "signal", "selectors", "socket", "subprocess", "construct", "capstone", "importlib.metadata")  # fmt: skip
PROGRAM = """
import sys
before = set(sys.modules)  # what the interpreter and its site hooks bring along is not ours
from pyvmm.cli.options import Options
from pyvmm.boot.detect import plan
import pyvmm.cli.run, pyvmm.machine, pyvmm.board, pyvmm.cpuid, pyvmm.kvm.vm, pyvmm.kvm.vcpu, pyvmm.kvm.entry_rules
plan(Options([sys.argv[1]]).config)
print(*sorted(set(sys.modules) - before))
"""


@pytest.mark.parametrize("guest", ["multiboot", "hello"])
def test_heavy_modules_stay_off_the_boot_path(guest: str) -> None:
    done = subprocess.run([sys.executable, "-I", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{PROGRAM}", guest], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    loaded = done.stdout.decode().split()
    assert "pyvmm.machine" in loaded
    assert not sorted(set(loaded) & set(HEAVY))
