"""What the KVM at hand can do, as the pytest plugin finds it out; and the command line in a process of its own."""

from __future__ import annotations

import subprocess
import sys

from pyvmm.testing.need import have, why_no_kvm

__all__ = ["have", "run_pyvmm", "why_no_kvm"]


def run_pyvmm(*arguments: str, stdin: bytes = b"", timeout: float = 60) -> subprocess.CompletedProcess[bytes]:
    """Runs the command line as a user would, in a process of its own, under a hard timeout."""
    return subprocess.run([sys.executable, "-m", "pyvmm", *arguments], input=stdin, capture_output=True, timeout=timeout)
