"""Texts that must stay as somebody has read and approved them: ``tests/golden``. PYVMM_WRITE_GOLDEN=1 writes them anew, for reading."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "golden"


def check(name: str, text: str) -> None:
    """Compares a text with the file of that name, or writes it."""
    path = FOLDER / name
    if os.environ.get("PYVMM_WRITE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert text + "\n" == path.read_text(), f"{path} differs; PYVMM_WRITE_GOLDEN=1 writes it anew: read what you commit"
