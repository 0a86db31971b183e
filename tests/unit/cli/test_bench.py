"""``pyvmm bench``: a checkout's benchmarks, and one line where there is no checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import pyvmm
from pyvmm import cli
from pyvmm.cli import bench


def test_becomes_the_checkouts_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[tuple[list[str], str]] = []
    monkeypatch.setattr(os, "execve", lambda _, words, environment: became.append((words[1:], environment["PYTHONPATH"])))
    monkeypatch.setenv("PYTHONPATH", "/other")
    bench.command(["--only", "exits"])
    root = str(Path(pyvmm.__file__).parents[1])
    assert became == [(["-m", "tests.bench", "--only", "exits"], f"{root}:/other")]
    assert Path(root, "tests", "bench", "__main__.py").exists()


def test_says_that_it_needs_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(pyvmm, "__file__", str(tmp_path / "pyvmm" / "__init__.py"))
    assert cli.main(["bench"]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and "in a checkout, python -m tests.bench" in err
