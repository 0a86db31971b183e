"""Manifests as test items, by pytest itself: a catalogue as ours, a unittests.cfg, and what the ini file and the command line choose."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm import catalogue
from tests.kvm.test_guests_as_tests import run_pytest
from tests.support import vm

pytestmark = pytest.mark.kvm

OK = bytes.fromhex("66baf803 b06f ee b06b ee b00a ee")  # "ok\n"


def ends(value: int) -> bytes:
    """Writes a value to isa-debug-exit: status value << 1 | 1."""
    return OK + b"\xb8" + value.to_bytes(4, "little") + b"\xe7\xf4" + vm.HANG


def multiboot(code: bytes) -> bytes:
    """A Multiboot image of 32-bit code, loaded at 1 MiB by the addresses in its header (flag 16)."""
    base, header = 0x10_0000, 32
    magic, flags = 0x1BAD_B002, 1 << 16
    fields = (magic, flags, -(magic + flags) & 0xFFFF_FFFF, base, base, base + header + len(code), 0, base + header)
    return b"".join(field.to_bytes(4, "little") for field in fields) + code


@pytest.fixture
def unittests(tmp_path: Path) -> Path:
    images = {"passes": ends(0), "fails": ends(1), "skips": ends(38), "aborts": ends(63), "powers-off": OK + vm.POWER_OFF + vm.HANG}
    text = ""
    for name, code in images.items():
        (tmp_path / f"{name}.flat").write_bytes(multiboot(code))
        text += f"[{name}]\nfile = {name}.flat\ngroups = all {name[:5]}\n"
    text += "[manual]\nfile = passes.flat\ngroups = nodefault\n[missing]\nfile = missing.flat\n"
    text += "[refused]\nfile = passes.flat\nextra_params = -device intel-iommu\n"
    text += "[hangs]\nfile = hangs.flat\ntimeout = 1\n"
    (tmp_path / "hangs.flat").write_bytes(multiboot(OK + vm.HANG))
    (tmp_path / "unittests.cfg").write_text(text)
    return tmp_path


def test_unit_tests_are_judged_as_their_own_runner_judges_them(unittests: Path) -> None:
    done = run_pytest(unittests, "--require-kvm", "unittests.cfg")
    out = done.stdout
    assert done.returncode == 1, out + done.stderr
    assert "4 failed, 1 passed, 4 skipped" in out
    for name in ("fails", "aborts", "powers-off", "hangs"):
        assert f"FAILED unittests.cfg::{name}" in out
    assert "status 3 (debug-exit" in out
    assert "guest hangs: no end after 1 s" in out
    assert "guest hangs: its last exits" in out
    for reason in ("marked as manual run only", "missing.flat was not built", "pyvmm: -device intel-iommu: not known", "the guest says so"):
        assert reason in out or reason.replace("intel-iommu", "'intel-iommu'") in out


def test_groups_and_names_choose(unittests: Path) -> None:
    assert "1 passed" in run_pytest(unittests, "unittests.cfg::manual").stdout
    assert "1 passed, 8 deselected" in run_pytest(unittests, "unittests.cfg", "-k", "passe and all").stdout


def test_the_ini_file_names_manifests(unittests: Path) -> None:
    (unittests / "test_nothing.py").write_text("def test_nothing():\n    pass\n")
    assert "1 passed" in run_pytest(unittests).stdout, "no manifest is taken that nobody named"
    (unittests / "pytest.ini").write_text("[pytest]\nguest_manifests = unittests.cfg\n")
    assert "4 failed, 2 passed, 4 skipped" in run_pytest(unittests).stdout


def test_a_catalogue_like_ours(tmp_path: Path) -> None:
    echo = catalogue.find("echo").file
    (tmp_path / "own.cfg").write_text(
        f"[echo]\nfile = {echo}\nformat = flat16\ninput = hi\\nq\nexpect_output = hi\nexpect_output = bye\n"
        f"[disorder]\nfile = {echo}\nformat = flat16\ninput = q\nexpect_output = bye\nexpect_output = type\n"
        f"[status]\nfile = {echo}\nformat = flat16\ninput = q\nexpect_status = 3\n"
        f"[waits]\nfile = {echo}\nformat = flat16\ntimeout = 1\nexpect_status = timeout\n"
        f"[needs]\nfile = {echo}\nformat = flat16\nkvm = no-such-word\n"
    )
    done = run_pytest(tmp_path, "own.cfg", "--require-kvm")
    assert "3 failed, 2 passed" in done.stdout, done.stdout
    assert "'type' is missing from the output, or out of order" in done.stdout
    assert "the guest ended with status 0 (poweroff: ACPI S5); the catalogue says 3" in done.stdout
    assert "no-such-word" in done.stdout


def test_a_manifest_with_a_mistake_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "bad.cfg").write_text("[x]\nfile = x\nnonsense = 1\n")
    done = run_pytest(tmp_path, "bad.cfg")
    assert done.returncode == 2
    assert "bad.cfg:3: 'nonsense = 1' is neither" in done.stdout
    assert "Traceback" not in done.stdout
