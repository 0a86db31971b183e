"""pyvmm-qemu: what programs look for that drive a QEMU. kvm-unit-tests' scripts are quoted where they say it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pyvmm import catalogue
from pyvmm.cli import qemu

# x86/run of kvm-unit-tests 1da1819e
RUNNER = (
    "--no-reboot -nodefaults -global kvm-pit.lost_tick_policy=discard -device pc-testdev -device isa-debug-exit,iobase=0xf4,iosize=0x4 "
    "-display none -serial stdio -device pci-testdev -machine accel=kvm -kernel"
)


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = qemu.main(list(arguments))
    out, err = capfd.readouterr()
    return status, out, err


@pytest.mark.parametrize("option", ["--help", "-help", "-h"])
def test_help_says_qemu_and_a_version(capfd: pytest.CaptureFixture[str], option: str) -> None:
    """search_qemu_binary: `--help | grep -q QEMU`; env_params: IFS='[ .]' read -r _ _ _ MAJOR MINOR MICRO of the first line of `-h`."""
    status, out, _ = run(capfd, option)
    first = out.splitlines()[0]
    assert status == 0
    words = re.split(r"[ .]", first)
    assert (words[0], [word.isdigit() for word in words[3:6]]) == ("QEMU", [True] * 3)
    assert "pyvmm run" not in out
    assert "-kernel" in out


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(capfd, "-version")[1].startswith("QEMU emulator version 7.")


@pytest.mark.parametrize("word", ["?", "help"])
def test_devices_are_listed_in_quotes(capfd: pytest.CaptureFixture[str], word: str) -> None:
    r"""x86/run: `-device '?' 2>&1 | grep -F -e \"testdev\" -e \"pc-testdev\"`."""
    status, out, err = run(capfd, "-device", word)
    assert (status, err) == (0, "")
    assert '"pc-testdev"' in out
    assert "pci-testdev" in out


@pytest.mark.parametrize(("option", "name"), [("machine", "q35"), ("M", "pc"), ("cpu", "qemu64"), ("accel", "kvm")])
def test_other_lists(capfd: pytest.CaptureFixture[str], option: str, name: str) -> None:
    status, out, _ = run(capfd, f"-{option}", "help")
    assert status == 0
    assert name in out


def test_a_kernel_that_is_not_there(capfd: pytest.CaptureFixture[str]) -> None:
    """qemu_parse_premature_failure: the line with _NO_FILE_4Uhere_ must say "could not open kernel"."""
    status, _, err = run(capfd, *RUNNER.split(), "_NO_FILE_4Uhere_", "-smp", "2", "-append", "x")
    assert status == 2
    assert len(err.splitlines()) == 1
    assert re.search("[Cc]ould not (load|open) kernel.*_NO_FILE_4Uhere_", err)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-mon", "chardev=mon,mode=control"], r"-mon: pyvmm does not have this option of QEMU's; it has .*-kernel"),
        (["-incoming", "unix:x"], "-incoming: "),
        (["--qmp-pretty", "x"], "-qmp-pretty: "),
        (["-device", "intel-iommu"], r"-device intel-iommu: not known; there are .*pc-testdev|-device 'intel-iommu': not known"),
        (["-machine", "kernel_irqchip=split"], "kernel_irqchip=split: not supported; there is kernel_irqchip=on"),
        (["-hda", "disk.img"], "-hda: there are no IDE disks"),
        (["disk.img"], "'disk.img': a disk image as a word of its own"),
        (["-accel", "tcg"], "-accel tcg: only"),
    ],
)
def test_what_pyvmm_lacks_is_refused_by_name(capfd: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    """...and before the kernel is looked for, so that the runner skips the test with this line as the reason."""
    status, out, err = run(capfd, *RUNNER.split(), "_NO_FILE_4Uhere_", *words)
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert re.search(message, err)
    assert "could not open kernel" not in err


@pytest.mark.kvm
def test_a_processor_there_is_not_comes_before_the_kernel_too(capfd: pytest.CaptureFixture[str]) -> None:
    _, _, err = run(capfd, *RUNNER.split(), "_NO_FILE_4Uhere_", "-cpu", "host,hv_passthrough")
    assert "hv_passthrough" in err
    assert "could not open kernel" not in err


@pytest.mark.kvm
def test_a_guest_is_run(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("NR_CPUS=1\n")
    image = catalogue.find("multiboot").file
    command = [sys.executable, "-c", "from pyvmm.cli.qemu import entry; entry()", *RUNNER.split(), image, "-append", "colour=red"]
    done = subprocess.run(
        [*command, "-initrd", str(tmp_path / "env")], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "colour=red" in done.stdout
    assert "modules: 1" in done.stdout
