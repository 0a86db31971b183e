"""The documents say what is: generated pages match, links lead somewhere, README commands exist and run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from pyvmm.cli import main, own
from pyvmm.cli.options import Options
from pyvmm.devices import document

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]


def test_devices_page_is_made_from_the_tables() -> None:
    assert (ROOT / "docs/devices.md").read_text() == document.page() + "\n", "python -m pyvmm.devices.document > docs/devices.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_exist(page: Path) -> None:
    for path in re.findall(r"`((?:pyvmm|tests|guests|docs)/[\w./-]+\.\w+)`", page.read_text()):
        assert (ROOT / path).exists(), f"{page.name} names {path}"


def _readme_commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    return [line.split("#")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def test_readme_has_the_two_set_up_commands() -> None:
    commands = _readme_commands()
    assert commands[0].endswith(".venv/bin/pyvmm run hello")
    assert commands[1].endswith(".venv/bin/tox")
    assert ".venv/bin/tox" in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize("command", [c for c in _readme_commands() if c.startswith("pyvmm")])
def test_readme_commands_are_understood(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Those that need no KVM are run; lines that start a guest are parsed (tests/kvm/test_catalogue.py runs every guest)."""
    _, verb, *rest = shlex.split(command)
    if verb in ("run", "debug", "record"):
        config = Options(own.take(verb, rest, (), ("o",))[1]).config
        assert config is not None
    else:
        assert main([verb, *rest]) == 0
        assert capsys.readouterr().out
