"""tox -e nested: the KVM tests and the Linux tests on a stock kvm_amd (host B), in one boot of the L1 host."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 1800  # seconds for the whole boot; CI's own limit is above
# Where the kind of KVM matters. The command line, the terminal and the storms start hundreds of processes, and each costs seconds
# in there; PYVMM_FULL=1 runs them as well.
TESTS = [f"tests/kvm/test_{name}.py" for name in ("descriptors", "probes", "machine", "catalogue", "firmware_state", "coalesce", "suspend")]


def main() -> int:
    """Arguments go to pytest inside; the default is TESTS and tests/boot."""
    sys.path.insert(0, str(ROOT))
    from tests.support import linux

    for flavour in ("cloud", "generic"):  # download and unpack out here: the L1 host has no network
        linux.image(flavour, "vmlinux")
    linux.initrd()
    tests = sys.argv[1:] or [*(["tests/kvm"] if os.environ.get("PYVMM_FULL") else TESTS), "tests/boot"]
    pytest = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--require-kvm", "--durations=15", *tests]
    keep = [f"--env={name}={os.environ[name]}" for name in ("PYVMM_CACHE", "PYVMM_FULL", "HOME") if name in os.environ]
    runner = [sys.executable, str(ROOT / "tests/nested/amd.py"), "--timeout", str(TIMEOUT), *keep, "--", *pytest]
    return subprocess.call(runner, cwd=ROOT)


if __name__ == "__main__":
    sys.exit(main())
