"""The pytest plugin as a user has it: the repository of docs/guests-as-tests.md, made in an empty folder and tested by pytest itself."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest

from tests.support.process import wait_until

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/guests-as-tests.md"
TRANSCRIPT = re.compile(r"```text\n(-+ guest kernel: .*?)\n```", re.S)
TITLES = ("how it ended", "the last lines of its console", "its last exits, of 4")
PATIENCE = 300

XDIST = os.environ.get("PYVMM_XDIST", "")  # a folder that has pytest-xdist, where this Python has not; .ci/run makes one

no_xdist = pytest.mark.skipif(
    not XDIST and importlib.util.find_spec("xdist") is None, reason="no pytest-xdist here (PYVMM_XDIST=FOLDER names one)"
)
four_at_once = pytest.param(("-n", "4"), id="n4", marks=no_xdist)
two_at_once = pytest.param(("-n", "2"), id="n2", marks=no_xdist)
alone = pytest.param((), id="alone")


def example(name: str) -> str:
    """A file as the page has it."""
    match = re.search(rf"```python\n# {name}\n(.*?)```", PAGE.read_text(), re.S)
    assert match
    return match[1]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """What the page says, done."""
    text = PAGE.read_text()
    (tmp_path / "test_guests.py").write_text(example("test_guests.py"))
    subprocess.run(re.search(r"^printf .*", text, re.M)[0], shell=True, cwd=tmp_path, check=True)  # type: ignore[index]
    return tmp_path


def run_pytest(folder: Path, *arguments: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """pytest in that folder; the plugin is named, because a checkout has no entry points (test_install.py has the installed one)."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    clean |= {"PYTHONPATH": os.pathsep.join([str(ROOT), *([XDIST] if XDIST else [])]), "COLUMNS": "80"}
    command = [*before, sys.executable, "-m", "pytest", "-p", "pyvmm.testing", "-p", "no:cacheprovider", "-rA", *arguments]
    return subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, timeout=PATIENCE)


def shown(output: str) -> str:
    """What a failed test shows of its guest."""
    match = re.search(r"^(-+ guest kernel: how it ended.*?)\n(?:=|_)", output, re.M | re.S)
    assert match, output
    return match[1]


@pytest.mark.kvm
@pytest.mark.parametrize("words", [alone, four_at_once])
def test_the_report_is_as_the_page_shows(repository: Path, words: tuple[str, ...]) -> None:
    done = run_pytest(repository, "--require-kvm", "--junitxml=junit.xml", *words)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 1 passed" in done.stdout
    assert "AssertionError: it powers off" in done.stdout
    found = shown(done.stdout)
    if os.environ.get("PYVMM_WRITE_GOLDEN"):
        PAGE.write_text(
            re.sub(r"```text\n(?:TRANSCRIPT|-+ guest kernel: .*?)\n```", lambda _: f"```text\n{found}\n```", PAGE.read_text(), flags=re.S)
        )
    assert found == TRANSCRIPT.search(PAGE.read_text())[1]  # type: ignore[index]
    junit = xml.parse(repository / "junit.xml")
    failure = junit.find(".//testcase[@name='test_my_kernel']/failure")
    assert failure is not None and failure.text is not None
    assert all(title in failure.text for title in TITLES)
    values = {each.get("name"): each.get("value", "") for each in junit.iter("property")}
    assert values["guest hello"].startswith("the guest ended with status 0 (poweroff")
    assert values["guest kernel"].startswith("the guest ended with status 33 (debug-exit")


@pytest.mark.kvm
def test_the_page_s_tests_from_a_snapshot(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(example("test_from_a_snapshot.py"))
    assert "2 passed" in run_pytest(tmp_path, "--require-kvm").stdout


@pytest.mark.kvm
def test_the_example_of_the_readme(tmp_path: Path) -> None:
    code = re.search(r"```python\n(def test_hello\(guest\).*?)```", (ROOT / "README.md").read_text(), re.S)
    (tmp_path / "test_readme.py").write_text(code[1])  # type: ignore[index]
    assert "1 passed" in run_pytest(tmp_path, "--require-kvm").stdout


def without_kvm() -> tuple[str, ...]:
    """Words before a command that make it see no KVM; skips where no namespace can be had."""
    words = ("unshare", "--mount", *(() if os.geteuid() == 0 else ("--user", "--map-root-user")))
    hide = 'if [ -e /dev/kvm ]; then mount --bind /dev/null /dev/kvm; fi && exec "$@"'
    before = (*words, "sh", "-c", hide, "sh")
    if not shutil.which("unshare") or subprocess.run([*before, "true"], capture_output=True).returncode:
        pytest.skip("no mount namespace can be had here")
    return before


@pytest.mark.parametrize("words", [alone, two_at_once])
def test_without_kvm_they_are_skipped_and_the_reason_is_told(repository: Path, words: tuple[str, ...]) -> None:
    before = without_kvm()
    done = run_pytest(repository, *words, before=before)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 skipped" in done.stdout
    assert re.search(r"SKIPPED .*no KVM here: .*/dev/kvm", done.stdout), done.stdout
    done = run_pytest(repository, "--require-kvm", *words, before=before)
    assert done.returncode == 1
    assert "2 errors" in done.stdout
    assert re.search(r"--require-kvm: .*/dev/kvm", done.stdout), done.stdout


@pytest.mark.kvm
def test_a_guest_that_cannot_be_started_takes_one_line(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(guest):\n    guest('nonsense.bin')\n")
    done = run_pytest(tmp_path)
    assert "nonsense.bin" in done.stdout
    assert "pyvmm/" not in done.stdout.split("FAILURES")[1], done.stdout


@pytest.mark.kvm
def test_a_mistake_in_a_test_is_told_without_pyvmms_own_lines(tmp_path: Path) -> None:
    mistakes = [
        ("guest('hello', timeout=0)", "", "timeout=0: give a number of seconds above 0"),
        ("guest('hello', timeout=-1)", "", "timeout=-1: give a number of seconds above 0"),
        ("guest('hello', needs=['paging33'])", "", "no probe 'paging33': known are "),
        ("guest('hello', smpp=2)", "", "unknown option -smpp (did you mean -smp?)"),
        ("guest()", "@pytest.mark.guest(file='kernel.bin')", "takes one name, then keywords"),
    ]
    tests = [f"{marker}\ndef test_{number}(guest):\n    {line}\n" for number, (line, marker, _) in enumerate(mistakes)]
    (tmp_path / "test_it.py").write_text("import pytest\n" + "".join(tests))
    done = run_pytest(tmp_path)
    assert done.returncode == 1 and "4 failed, 1 error" in done.stdout, done.stdout
    for _, _, message in mistakes:
        assert message in done.stdout
    assert "pyvmm/testing" not in done.stdout and "probes.py" not in done.stdout, done.stdout


@pytest.mark.kvm
def test_control_c_ends_guests_and_session(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "def test_it(guest):\n    guest('echo', smp=2)\n    open('waits', 'w').close()\n    guest('echo').wait()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "pyvmm.testing", "-p", "no:cacheprovider"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        wait_until((tmp_path / "waits").exists, "the test waits for its guest", PATIENCE)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 2, out
    assert "KeyboardInterrupt" in out


# --- a session that asks for no guest -----------------------------------------------------------------------------------
def test_nothing_is_imported_for_tests_without_guests(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text(
        "import sys\n"
        "def test_other(tmp_path):\n"
        "    assert sorted(name for name in sys.modules if name.startswith('pyvmm')) == ['pyvmm', 'pyvmm.testing']\n"
    )
    (tmp_path / "setup.cfg").write_text("[metadata]\nname = other\n")
    done = run_pytest(tmp_path)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_a_cfg_file_that_is_no_manifest_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "setup.cfg").write_text("[metadata]\nname = other\n")
    done = run_pytest(tmp_path, "setup.cfg")
    assert "collected 0 items" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
