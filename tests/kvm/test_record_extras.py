"""``record -F`` and ``-e``, and reports of real recordings."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from pyvmm.observe.recording.reader import Recording
from pyvmm.observe.report import model
from tests.support.process import COMMAND, PATIENCE, ROOT

pytestmark = pytest.mark.kvm


def pyvmm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT, check=False)


def recorded(path: Path, *arguments: str) -> Path:
    done = pyvmm("record", *arguments, "-o", str(path / "run.pvm"))
    assert done.returncode == 0, done.stderr
    return path / "run.pvm"


def test_samples_of_a_guest_that_makes_no_exits(tmp_path: Path) -> None:
    done = pyvmm("record", "hang", "-F", "200", "--timeout", "1", "-o", str(tmp_path / "run.pvm"))
    assert done.returncode == 124
    story = model.load(Recording.open(str(tmp_path / "run.pvm")))
    assert len(story.samples) > 5
    assert {sample.vcpu for sample in story.samples} == {0}
    assert all(0x7C00 <= sample.rip < 0x7E00 for sample in story.samples[2:])
    assert story.kernel
    assert not any(sample.user for sample in story.samples)


def test_who_sleeps_is_asleep(tmp_path: Path) -> None:
    path = recorded(tmp_path, "bench-hlt", "-F", "300")
    samples = model.load(Recording.open(str(path))).samples
    assert any(sample.asleep for sample in samples)  # how many is a matter of the host's speed


def test_a_disks_thread_has_spans_and_events_their_lines(tmp_path: Path) -> None:
    path = recorded(tmp_path, "virtio-blk", "-e", "virtio_serve,irq_msi")
    story = model.load(Recording.open(str(path)))
    assert {span[2] for span in story.spans} == {"virtio-blk0"}
    assert all(took > 0 for _, took, _, _ in story.spans)
    assert {event for _, _, event, _ in story.events} == {"virtio_serve", "irq_msi"}
    assert len(story.spans) == sum(event == "virtio_serve" for _, _, event, _ in story.events)


def test_every_form_of_a_report(tmp_path: Path) -> None:
    path = recorded(tmp_path, "smp", "-F", "100")
    outputs = {kind: tmp_path / f"out.{kind}" for kind in ("html", "chrome", "folded")}
    done = pyvmm("report", str(path), "--text", *(word for kind, file in outputs.items() for word in (f"--{kind}", str(file))))
    assert (done.returncode, done.stderr) == (0, "")
    assert "COM1 THR" in done.stdout
    assert "4 vCPUs" in done.stdout
    assert outputs["html"].read_text().startswith("<!doctype html>")
    assert json.loads(outputs["chrome"].read_text())["traceEvents"]
    assert all(line.rsplit(" ", 1)[1].isdigit() for line in outputs["folded"].read_text().splitlines())


def test_exits_are_what_stat_counts(tmp_path: Path) -> None:
    path = recorded(tmp_path, "hello")
    rows = {(row.access, row.address): row.count for row in model.load(Recording.open(str(path))).rows}
    assert rows == {("in", 0x3FD): 51, ("out", 0x3F8): 51, ("out", 0x604): 1}


def test_a_choice_that_a_recording_does_not_have_is_told(tmp_path: Path) -> None:
    path = str(recorded(tmp_path, "hello"))
    for option, value, message in (
        ("--reason", "foo", "--reason foo: not in this recording; there are: io"),
        ("--device", "COM7", "--device COM7: not in this recording; there are: COM1, acpi-pm"),
        ("--vcpu", "1", "--vcpu 1: the recorded machine has vCPUs 0 to 0"),
    ):
        done = pyvmm("report", path, option, value)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"pyvmm: {message}\n"
    assert pyvmm("report", path, "--reason", "io", "--device", "COM1", "--vcpu", "0").returncode == 0


@pytest.mark.parametrize("language", ["C", "en_US.ISO-8859-1"])
def test_a_page_is_the_same_in_every_language(tmp_path: Path, language: str) -> None:
    path = str(recorded(tmp_path, "hello"))
    env = {**os.environ, "LC_ALL": language, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([*COMMAND, "report", path, "--html", "-"], capture_output=True, env=env, timeout=PATIENCE, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert pyvmm("report", path, "--html", str(tmp_path / "page.html")).returncode == 0
    assert done.stdout == (tmp_path / "page.html").read_bytes()


def test_a_closed_stdout_breaks_no_command(tmp_path: Path) -> None:
    path = str(recorded(tmp_path, "hello"))
    for arguments in (
        ["report", path], ["report", path, "--html", "-"], ["replay", path, "--batch", "-ex", "step"],
        ["debug", "hello", "--batch", "-ex", "step"], ["top", "hello"],
    ):  # fmt: skip
        command = ["sh", "-c", '"$@" >&- <&-', "sh", *COMMAND, *arguments]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=PATIENCE, cwd=ROOT, check=False)
        assert (done.returncode, done.stderr) == (0, ""), arguments


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("record hello -F 0", "-F 0: give a number"),
        ("record hello -e nothing", "-e nothing: no event"),
        ("report", "name one recording"),
        ("report /nowhere", "cannot read the recording /nowhere"),
        ("report x --sort y", "--sort y"),
        ("report x --htm y", "unknown option --htm"),
        ("report guests/catalogue.cfg", "no recording of pyvmm"),
    ],
)
def test_mistakes_are_one_line(line: str, message: str) -> None:
    done = pyvmm(*line.split())
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr
