"""What a measurement hands back, and how it becomes Markdown between two markers of docs/benchmarks.md."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path

from pyvmm.kvm.kind import cpu_brand, kvm_kind


@dataclass
class Section:
    """One measurement's result.

    Attributes:
        name: as for --only; marks the place in the document.
        title: the heading.
        how: a paragraph: what was measured, and by which command.
        header, rows: the table.
        raw: every sample, for --json.
        where: the host in a sentence; "": this one.
    """

    name: str
    title: str
    how: str
    header: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    raw: dict[str, object] = field(default_factory=dict)
    where: str = ""

    def markdown(self) -> str:
        command = f"Command: `python -m tests.bench --only {self.name}`."
        lines = [f"## {self.title}", "", self.how, "", f"{command} {self.where or machine()}", ""]
        lines += ["| " + " | ".join(row) + " |" for row in (self.header, ["---"] * len(self.header), *self.rows)]
        return "\n".join(lines)

    def plain(self) -> str:
        """For the terminal: columns aligned."""
        table = [list(self.header), *map(list, self.rows)]
        widths = [max(len(row[at]) for row in table) for at in range(len(self.header))]
        return "\n".join([self.title, *("  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in table)])

    def data(self) -> dict[str, object]:
        return asdict(self) | {"where": self.where or machine()}


def machine() -> str:
    """The host in a sentence."""
    nested = " under QEMU TCG (host B)" if os.environ.get("PYVMM_NESTED") == "amd" else ""
    parts = [f"{cpu_brand() or platform.machine()}, {os.cpu_count()} CPUs", f"Linux {platform.release()}"]
    parts += [f"KVM: {kvm_kind().name}{nested}", f"Python {platform.python_version()}"]
    qemu = shutil.which("qemu-system-x86_64")
    if qemu:
        said = subprocess.run([qemu, "--version"], capture_output=True, text=True, timeout=60).stdout
        parts.append("QEMU " + said.split("version ")[1].split()[0])
    return f"Measured {date.today()} on {', '.join(parts)}; load {os.getloadavg()[0]:.1f} at the end."


def update(document: Path, sections: list[Section]) -> None:
    """Replaces each section between its markers, or appends it; the rest of the document is people's."""
    text = document.read_text() if document.exists() else "# Benchmarks\n"
    for section in sections:
        begin, end = f"<!-- bench: {section.name} -->", f"<!-- end: {section.name} -->"
        block = f"{begin}\n{section.markdown()}\n{end}"
        if begin in text:
            before, _, rest = text.partition(begin)
            text = before + block + rest.partition(end)[2]
        else:
            text = text.rstrip("\n") + f"\n\n{block}\n"
    document.write_text(text)
