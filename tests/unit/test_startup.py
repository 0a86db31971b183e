"""The import diet: what booting a Multiboot or flat guest may not import, because a VMM is judged by its start-up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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


# A disk of every kind, opened from the command line
DISKS = """
import sys
before = set(sys.modules)
from pyvmm.cli.options import Options
from pyvmm.backends.block.backend import open_drive
for options in ("", ",snapshot=on", ",cache=none"):
    for drive in Options(["hello", "-drive", f"file={sys.argv[1]}{options}"]).config.drives:
        open_drive(drive).close()
print(*sorted(set(sys.modules) - before))
"""


def loaded(program: str, argument: str) -> set[str]:
    """The modules a program has when it ends, beyond those every Python has."""
    command = [sys.executable, "-I", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{program}", argument]
    done = subprocess.run(command, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return set(done.stdout.decode().split())


@pytest.mark.parametrize("guest", ["multiboot", "hello"])
def test_heavy_modules_stay_off_the_boot_path(guest: str) -> None:
    found = loaded(PROGRAM, guest)
    assert "pyvmm.machine" in found
    assert not sorted(found & set(HEAVY))
    assert not [name for name in found if "block" in name or "drives" in name], "who has no disk loads none"
    assert not [name for name in found if name.startswith("pyvmm.observe") or "monitor" in name], "nor a debugger"


def test_heavy_modules_stay_off_the_way_to_a_disk(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    found = loaded(DISKS, str(tmp_path / "disk"))
    assert "pyvmm.backends.block.overlay" in found
    assert not sorted(found & set(HEAVY))


# Both network cards, a wire between them, and what the command line says of them
CARDS = """
import sys
before = set(sys.modules)
from pyvmm.cli.options import Options
from pyvmm.backends.net.backend import open_netdevs
open_netdevs(Options(["hello", "-nic", f"hubport,hubid={sys.argv[1]}"]).config.netdevs)
import pyvmm.nics, pyvmm.cards, pyvmm.devices.virtio.net, pyvmm.devices.virtio.pci, pyvmm.devices.e1000.card
print(*sorted(set(sys.modules) - before))
"""


def test_heavy_modules_stay_off_the_way_to_a_network() -> None:
    found = loaded(CARDS, "0")
    assert "pyvmm.backends.net.hub" in found
    assert not sorted(found & set(HEAVY))
    assert not [name for name in found if "trace" in name], "who does not ask for a trace loads none"
