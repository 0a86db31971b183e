"""What the KVM at hand can do, found out by running a guest that needs it. Each answer is computed once per session."""

from __future__ import annotations

import functools
import subprocess
import sys

from pyvmm.errors import PyvmmError


@functools.cache
def why_no_kvm() -> str:
    """Why guests cannot run here, in words; "" when they can."""
    from pyvmm.kvm.system import Kvm

    try:
        with Kvm() as kvm:
            kvm.create_vm().close()
    except PyvmmError as error:
        return str(error)
    return ""


@functools.cache
def have(need: str) -> bool:
    """Whether a feature word of ``@pytest.mark.kvm(...)`` or of the catalogue's ``kvm =`` line holds on this host.

    Known words are ``pyvmm.probes.PROBES``; an unknown word is an error, so that a typo cannot hide a test.
    """
    from pyvmm.probes import probe

    return probe(need)


def run_pyvmm(*arguments: str, stdin: bytes = b"", timeout: float = 60) -> subprocess.CompletedProcess[bytes]:
    """Runs the command line as a user would, in a process of its own, under a hard timeout."""
    return subprocess.run([sys.executable, "-m", "pyvmm", *arguments], input=stdin, capture_output=True, timeout=timeout)
