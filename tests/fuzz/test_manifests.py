"""Manifests under mutation: a ConfigError of one line that names the file, or tests whose command lines can be looked at."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm import catalogue
from pyvmm.cli.options import Options
from pyvmm.errors import ConfigError, PyvmmError
from pyvmm.testing import unittests

ROUNDS = int(os.environ.get("PYVMM_FUZZ_IMAGES", "1500"))
UNITTESTS = b'''\
[apic]
file = apic.flat
smp = 2
test_args = 'cpuid now'
qemu_params = -cpu qemu64,+x2apic -m 256 -machine pit=off
arch = x86_64
timeout = 30s
groups = apic vmexit
check = /sys/module/kvm/parameters/enable_pmu=Y /proc/sys/kernel/nmi_watchdog=0
accel = kvm
[wide]
file = wide.flat
extra_params = """-m 1G \\
-device pci-testdev"""
'''
PIECES = [
    b"[",
    b"]",
    b"=",
    b'"""',
    b"'",
    b'"',
    b"\n",
    b"`",
    b"$(",
    b"\\",
    b"\0",
    b"\xff",
    b"#",
    b" = ",
    b"file",
    b"timeout",
    b"-device",
    b"9" * 30,
]


def mutated(rng: random.Random, data: bytes) -> bytes:
    found = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(found) + 1)
        kind = rng.randrange(4)
        if kind == 0:
            found[at:at] = rng.choice(PIECES)
        elif kind == 1:
            del found[at : at + rng.randint(1, 20)]
        elif kind == 2 and at < len(found):
            found[at] = rng.randrange(256)
        else:
            found[at:at] = found[rng.randrange(len(found) + 1) :][:40]
    return bytes(found)


def look_at_unit_tests(path: Path) -> None:
    for test in unittests.load(path):
        assert test.timeout >= 0
        test.why_not(chosen=False)
        try:
            Options(test.arguments())
        except PyvmmError as error:
            assert str(error)


def look_at_catalogue(path: Path) -> None:
    assert all(guest.name for guest in catalogue.load(str(path)).values())


@pytest.mark.parametrize("look", [look_at_unit_tests, look_at_catalogue])
def test_mutated_manifests(tmp_path: Path, look: Callable[[Path], None]) -> None:
    ours = (Path(catalogue.directory()) / catalogue.FILE).read_bytes()
    whole = UNITTESTS if look is look_at_unit_tests else ours[ours.index(b"[hello]") :][:1500]
    rng = random.Random(whole)
    path = tmp_path / "manifest.cfg"
    refused = 0
    for _ in range(ROUNDS):
        path.write_bytes(mutated(rng, whole))
        try:
            look(path)
        except ConfigError as error:
            refused += 1
            assert str(path) in str(error)
    assert 0 < refused < ROUNDS
