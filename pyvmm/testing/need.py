"""What the KVM at hand can do, found out by running a guest that needs it. Each answer is computed once per process."""

from __future__ import annotations

import functools


@functools.cache
def why_no_kvm() -> str:
    """Why guests cannot run here, in words; "" when they can."""
    from pyvmm.errors import PyvmmError
    from pyvmm.kvm.system import Kvm

    try:
        with Kvm() as kvm:
            kvm.create_vm().close()
    except PyvmmError as error:
        return str(error)
    return ""


@functools.cache
def have(need: str) -> bool:
    """Whether a feature word of a ``kvm =`` line or of ``needs=`` holds on this host.

    Known words are ``pyvmm.probes.PROBES``; an unknown word is an error, so that a typo cannot hide a test.
    """
    from pyvmm.probes import probe

    return probe(need)
