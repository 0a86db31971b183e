"""tox -e nested: the KVM tests and the Linux tests on a stock kvm_amd (host B), in one boot of the L1 host.

That host's own kernel locks up now and then when the guest has several CPUs (nested SVM under multi-threaded TCG), which says
nothing of the test that ran. It is booted anew then, and goes on behind the tests that have ended: none runs twice but the one
that was cut off, and one that failed stays failed. A host that locks up BOOTS times fails the suite; so do, at once, a host that panics
and a test that hangs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic

ROOT = Path(__file__).resolve().parents[2]
NOTHING_LEFT = 5  # pytest: no test collected
TIMEOUT = 3600  # seconds for all boots together; CI's own limit is above
BOOTS = 4
# Where the kind of KVM matters. The command line, the terminal and the storms start hundreds of processes, and each costs seconds
# in there; PYVMM_FULL=1 runs them as well.
TESTS = [f"tests/kvm/test_{name}.py" for name in ("descriptors", "probes", "machine", "catalogue", "firmware_state", "coalesce", "suspend")]


def main() -> int:
    """Arguments go to pytest inside; the default is TESTS and tests/boot."""
    sys.path.insert(0, str(ROOT))
    from tests.support import debian, linux, netlinux, rootfs

    debian.require({"mke2fs": "e2fsprogs"})
    for flavour in ("cloud", "generic"):  # download and unpack out here: the L1 host has no network
        linux.image(flavour, "vmlinux")
        rootfs.cached_initrd(flavour)
    linux.initrd()
    netlinux.base()
    rootfs.cached()
    tests = sys.argv[1:] or [*(["tests/kvm"] if os.environ.get("PYVMM_FULL") else TESTS), "tests/boot"]
    keep = [f"--env={name}={os.environ[name]}" for name in ("PYVMM_CACHE", "PYVMM_FULL", "HOME") if name in os.environ]
    with tempfile.TemporaryDirectory(prefix="pyvmm-suite-") as results:
        return _run(tests, keep, Path(results))


def _run(tests: list[str], keep: list[str], results: Path) -> int:
    from tests.nested.amd import AGAIN

    ledger = results / "ledger"
    ledger.write_text("")
    pytest = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--require-kvm", "--durations=15", f"--ledger={ledger}", *tests]
    deadline, status = monotonic() + TIMEOUT, AGAIN
    for boot in range(1, BOOTS + 1):
        options = ["--once", "--timeout", str(max(int(deadline - monotonic()), 1)), "--results", str(results), *keep]
        status = subprocess.call([sys.executable, str(ROOT / "tests/nested/amd.py"), *options, "--", *pytest], cwd=ROOT)
        if status != AGAIN:
            break
        ended = ledger.read_text().splitlines()
        print(f"suite: host failure {boot} of at most {BOOTS}, after {len(ended)} tests", file=sys.stderr)
    failed = [line for line in ledger.read_text().splitlines() if line.startswith("failed ")]
    for line in failed:
        print(f"suite: {line}", file=sys.stderr)
    if status == NOTHING_LEFT and ledger.stat().st_size:  # it locked up behind the last test
        status = 0
    return status or bool(failed)


if __name__ == "__main__":
    sys.exit(main())
