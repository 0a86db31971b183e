"""kvm-unit-tests' manifests read as its own runner reads them (scripts/common.bash, scripts/runtime.bash)."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm.cli.options import Options
from pyvmm.errors import ConfigError
from pyvmm.testing import unittests

MANIFEST = '''\
# a comment

[apic]
file = apic.flat
smp = 2
qemu_params = -cpu qemu64,+x2apic
arch = x86_64
timeout = 30
groups = apic slow

[cpuid]
file = vmexit.flat
test_args = 'cpuid now'
groups = vmexit
timeout = 2m

[wide]
file = wide.flat
extra_params = """-m 256 \\
-machine pit=off"""
check = /proc/self/comm=nobody /sys/x=Y
'''


def read(tmp_path: Path, text: str) -> list[unittests.UnitTest]:
    (tmp_path / "unittests.cfg").write_text(text)
    return unittests.load(tmp_path / "unittests.cfg")


def test_sections(tmp_path: Path) -> None:
    apic, cpuid, wide = read(tmp_path, MANIFEST)
    assert (apic.name, apic.image, apic.smp, apic.groups, apic.timeout) == ("apic", tmp_path / "apic.flat", "2", ("apic", "slow"), 30)
    assert (cpuid.smp, cpuid.timeout, wide.timeout) == ("1", 120, 90)
    assert wide.check == [("/proc/self/comm", "nobody"), ("/sys/x", "Y")]


def test_arguments_are_those_pyvmm_run_takes(tmp_path: Path) -> None:
    apic, cpuid, wide = read(tmp_path, MANIFEST)
    options = Options(apic.arguments()).config
    assert options is not None
    assert (options.smp, options.cpu, options.boot.kernel, options.no_reboot) == (2, "qemu64,+x2apic", str(apic.image), True)
    assert [device.name for device in options.devices] == ["pc-testdev", "isa-debug-exit", "pci-testdev"]
    assert not options.pit_reinject
    assert cpuid.arguments()[-2:] == ["-append", "cpuid now"]
    assert wide.arguments()[-4:] == ["-m", "256", "-machine", "pit=off"]


@pytest.mark.parametrize("text", ["`date +%s`", "$(nproc)", "$MAX_SMP", "${X}"])
def test_what_a_shell_would_run_is_not_run(tmp_path: Path, text: str) -> None:
    (test,) = read(tmp_path, f'[x]\nfile = x.flat\ntest_args = "1 {text}"\n')
    with pytest.raises(ConfigError, match="need a shell"):
        test.arguments()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("arch = i386", "i386 only"),
        ("arch = x86_64", ""),
        ("accel = tcg", "tcg only"),
        ("accel = kvm", ""),
        ("groups = nodefault", "manual run only"),
        ("groups = migration", "no migration"),
        ("groups = panic", "GUEST_PANICKED"),
        ("check = /proc/self/comm=nobody", "/proc/self/comm not equal to nobody"),
        ("check = /nowhere=Y", "/nowhere not equal to Y"),
        ("check = {file}=text", ""),
        ("disabled_if = [ -e / ]", "a shell would have to say"),
    ],
)
def test_what_the_runner_would_skip(tmp_path: Path, line: str, reason: str) -> None:
    (tmp_path / "x.flat").write_bytes(b"")
    (tmp_path / "content").write_text("text\n")
    (test,) = read(tmp_path, f"[x]\nfile = x.flat\n{line.format(file=tmp_path / 'content')}\n")
    found = test.why_not(chosen=False)
    assert reason in found if reason else not found


def test_what_was_asked_for_by_name_is_run(tmp_path: Path) -> None:
    (tmp_path / "x.flat").write_bytes(b"")
    (test,) = read(tmp_path, "[x]\nfile = x.flat\ngroups = nodefault\n")
    assert not test.why_not(chosen=True)


def test_an_image_that_was_not_built(tmp_path: Path) -> None:
    (test,) = read(tmp_path, "[x]\nfile = x.flat\n")
    assert test.why_not(chosen=True).endswith("x.flat was not built")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[x]\nfil = x\n", r"unittests.cfg:2: 'fil = x' is neither"),
        ("file = x\n", r":1: 'file = x' is neither"),
        ("[x]\nsmp = 2\n", r"\[x\] has no file"),
        ("[x]\nfile = x\ntimeout = soon\n", r"timeout = soon: give seconds"),
        ('[x]\nfile = x\nextra_params = """-m 1\n', r':3: the """ of extra_params does not end'),
        ("nonsense\n", "neither"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, text)


def test_quotes_that_do_not_close(tmp_path: Path) -> None:
    (test,) = read(tmp_path, "[x]\nfile = x\ntest_args = 'a\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        test.arguments()


def test_a_manifest_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        unittests.load(tmp_path / "nowhere")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="binary"):
        unittests.load(tmp_path / "binary")
