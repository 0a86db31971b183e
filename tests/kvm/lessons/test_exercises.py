"""The exercises' checks: the reference answers pass, and what one begins with fails with a hint in words.

The answers are here so that they are not beside the questions. Some are changes of docs/lessons/01/first.py.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest

from tests.support.process import ROOT

EXERCISES = Path(ROOT) / "docs/lessons/exercises"
FIRST = Path(ROOT) / "docs/lessons/01/first.py"
ANSWERS = Path(__file__).parent / "answers"
FIRST_CODE = """    0xB0, ord("A"),  # mov al, 'A'
    0xE6, 0xE9,      # out 0xe9, al
"""
LOOP = """    0xB0, ord("A"),        # mov al, 'A'
    0xE6, 0xE9,            # next: out 0xe9, al
    0xFE, 0xC0,            # inc al
    0x3C, ord("Z") + 1,    # cmp al, 'Z' + 1
    0x75, 0xF8,            # jne next
"""
READ = """    0xE4, 0x60,  # in al, 0x60
    0xE6, 0xE9,  # out 0xe9, al
"""
ANSWER = """        if not direction:
            run[offset] = 0x1E
    elif reason == KVM_EXIT_HLT:
"""
LOAD = """    0xA0, 0x00, 0x20,  # mov al, [0x2000]
    0xE6, 0xE9,        # out 0xe9, al
"""
DEVICE = """    elif reason == 6:
        address, data, length, is_write = struct.unpack_from("=QQIB", run, 32)
        print(f"exit: KVM_EXIT_MMIO, {'write' if is_write else 'read'} {address:#x}, {length} byte")
        run[40] = ord("Z")
    elif reason == KVM_EXIT_HLT:
"""
OF_FIRST = {
    "01_1.py": [(FIRST_CODE, FIRST_CODE.replace("'A'", "'H'").replace('"A"', '"H"') + FIRST_CODE.replace('"A"', '"i"'))],
    "01_2.py": [(FIRST_CODE, LOOP)],
    "01_3.py": [(FIRST_CODE, READ), ("    elif reason == KVM_EXIT_HLT:\n", ANSWER)],
    "04_1.py": [(FIRST_CODE, LOAD), ("    elif reason == KVM_EXIT_HLT:\n", DEVICE)],
}


def results(folder: Path, *files: str) -> dict[str, str]:
    """Runs the checks in a folder as a student would; the message of each that failed, "" for one that passed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PYVMM_", "COV_"))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=junit.xml", "--require-kvm", *files]
    done = subprocess.run(command, cwd=folder, env={**clean, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found: dict[str, str] = {}
    for case in xml.parse(folder / "junit.xml").iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        assert case.find("skipped") is None and case.find("error") is None, f"{name}: {done.stdout}"
        failure = case.find("failure")
        found[name] = "" if failure is None else failure.get("message", "") + (failure.text or "")
    return found


def folder(where: Path) -> Path:
    """The exercises as one copies them."""
    return Path(shutil.copytree(EXERCISES, where / "mine", ignore=shutil.ignore_patterns("__pycache__")))


@pytest.mark.kvm
def test_reference_answers_pass(tmp_path: Path) -> None:
    mine = folder(tmp_path)
    for name, changes in OF_FIRST.items():
        text = FIRST.read_text()
        for old, new in changes:
            assert text.count(old) == 1
            text = text.replace(old, new)
        (mine / name).write_text(text)
    shutil.copytree(ANSWERS, mine, dirs_exist_ok=True)
    found = results(mine)
    assert {name: message for name, message in found.items() if message} == {}
    assert len(found) >= len(list(EXERCISES.glob("test_*.py"))) * 2


def hints(found: dict[str, str]) -> None:
    """All have failed, in words."""
    for name, message in found.items():
        assert message, f"{name} passes before anything is done"
        assert "Traceback" not in message and "assert " not in message, f"{name}: {message}"


@pytest.mark.kvm
def test_what_one_begins_with_fails_with_a_hint(tmp_path: Path) -> None:
    mine = folder(tmp_path)
    for name in OF_FIRST:
        shutil.copy(FIRST, mine / name)
    hints(results(mine))


@pytest.mark.kvm
def test_mistakes_are_told_in_words(tmp_path: Path) -> None:
    mine = folder(tmp_path)
    (mine / "01_2.py").write_text("1 / 0\n")
    (mine / "02_1.txt").write_text("many\n")
    (mine / "02_2.S").write_text("start: nonsense\n")
    found = results(mine, "test_01.py", "test_02.py")
    for name, text in {
        "test_01.test_1_two_letters": "01_1.py; begin with: cp docs/lessons/01/first.py",
        "test_01.test_2_a_loop": "01_2.py ended with status 1:\nTraceback",
        "test_02.test_1_another_name": "02_1.txt: 'many' is not a number",
        "test_02.test_2_the_right_segment": "02_2.S does not assemble:",
    }.items():
        assert text in found[name]
        assert "conftest.py:" not in found[name]


PAGES = sorted(EXERCISES.parent.glob("[0-9]*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_exercise_on_a_page_has_its_check(page: Path) -> None:
    """A page names the file of each, and ``-k 1_`` chooses the first."""
    number = page.name[:2]
    told = re.findall(rf"^(\d)\. `{number}_(\d)\.\w+`", page.read_text().partition("\n## Exercises\n")[2], re.MULTILINE)
    checked = re.findall(r"^def test_(\d)_", (EXERCISES / f"test_{number}.py").read_text(), re.MULTILINE)
    assert [each for each, _ in told] == [each for _, each in told] == checked == [str(n + 1) for n in range(len(told))]
    assert len(told) >= 2
