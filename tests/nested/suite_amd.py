"""tox -e nested: the KVM tests and the Linux tests on a stock kvm_amd (host B), on two such hosts side by side where there are two CPUs.

Each host has one emulated CPU. With two, multi-threaded TCG runs nested SVM wrongly now and then: of some forty Linux guests with
several vCPUs, two stood still, some died of a triple fault, and the host's own kernel locked up or lost its stack; with one, 48 of 48
boots passed. Two hosts on two CPUs get more done, too (docs/testing.md has the figures).

A host may lock up all the same. It is booted anew then, and goes on with the tests that nobody has begun (sharing.py): none runs twice
but the one that was cut off, one that failed stays failed, and one that is cut off twice fails. A host that panics and a test that hangs
fail the suite.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from time import monotonic

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 3600  # seconds for all boots together; CI's own limit is above
BOOTS = 4  # of one host
MOST_HOSTS = 2
# Where the kind of KVM matters. The command line, the terminal and the storms start hundreds of processes, and each costs seconds
# in there; PYVMM_FULL=1 runs them as well. The long ones first: the hosts should be done at the same time.
TESTS = [
    "tests/boot",
    "tests/kvm/debug/test_history_short.py",
    *(
        f"tests/kvm/test_{name}.py"
        for name in ("catalogue", "machine", "descriptors", "probes", "firmware_state", "coalesce", "suspend", "stats_perf")
    ),
    "tests/kvm/test_guests_as_tests.py::test_the_report_is_as_the_page_shows[alone]",
    "tests/kvm/test_sandbox.py::test_an_escaped_device_gets_nowhere[open]",
    "tests/kvm/test_sandbox.py::test_no_path_is_opened_after_the_door_is_closed",
]
BESIDE_QEMU = {"tests", "tests/boot", "tests/boot/test_network.py"}  # have a test for which a guest of QEMU's runs out here


def main() -> int:
    """Arguments go to pytest inside; the default is TESTS."""
    sys.path.insert(0, str(ROOT))
    from tests.support import debian, linux, netlinux, qemu_peer, rootfs

    debian.require({"mke2fs": "e2fsprogs"})
    for flavour in ("cloud", "generic"):  # download and unpack out here: the L1 host has no network
        linux.image(flavour, "vmlinux")
        rootfs.cached_initrd(flavour)
    linux.initrd()
    netlinux.base()
    rootfs.cached()
    tests = sys.argv[1:] or (["tests/boot", "tests/kvm"] if os.environ.get("PYVMM_FULL") else TESTS)
    keep = [f"--env={name}={os.environ[name]}" for name in ("PYVMM_CACHE", "PYVMM_FULL", "PYVMM_XDIST", "HOME") if name in os.environ]
    with ExitStack() as stack:
        if {test.partition("::")[0].rstrip("/") for test in tests} & BESIDE_QEMU:
            peer = stack.enter_context(qemu_peer.Peer())
            keep += ["--net", f"--env=PYVMM_PEER=10.0.2.2:{peer.port}"]
            stack.callback(lambda: print(f"suite: the guest of QEMU printed:\n{peer.printed()}", flush=True))
        results = stack.enter_context(tempfile.TemporaryDirectory(prefix="pyvmm-suite-"))
        return run(tests, keep, Path(results), min(len(os.sched_getaffinity(0)), MOST_HOSTS))


class Host:
    """One host's part, on a thread of its own: boots it as often as may be.

    Attributes:
        status: of its last boot, or why it was given up; 0 when all is well.
        output: what its runs printed; None for the one that prints as it goes.
    """

    def __init__(self, number: int, tests: Sequence[str], keep: Sequence[str], results: Path, deadline: float) -> None:
        from tests.nested.sharing import Share

        self.number = number
        self.share = Share(results, number)
        self.status = 0
        self.output = results / f"output-{number}" if number else None
        pytest = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--require-kvm", "--durations=15"]
        pytest += ["-p", "tests.nested.sharing", f"--share={results}", f"--host={number}", *tests]
        self._command = ["--once", "--smp", "1", "--results", str(results), *keep, "--", *pytest]
        self._deadline = deadline
        self._cut_off: list[str] = []

    def run(self) -> None:
        from tests.nested.amd import AGAIN

        for boot in range(1, BOOTS + 1):
            self.status = self._boot()
            if self.status != AGAIN:
                return
            interrupted = self.share.give_back()[:1]
            self._say(f"host failure {boot} of at most {BOOTS}, in {interrupted[0] if interrupted else 'no test'}")
            if set(interrupted) & set(self._cut_off):
                self.share.note("failed", interrupted[0])
                return
            self._cut_off += interrupted

    def _boot(self) -> int:
        left = str(max(int(self._deadline - monotonic()), 1))
        command = [sys.executable, str(ROOT / "tests/nested/amd.py"), "--timeout", left, *self._command]
        if self.output is None:
            return subprocess.call(command, cwd=ROOT)
        with self.output.open("ab") as output:
            return subprocess.call(command, cwd=ROOT, stdout=output, stderr=output)

    def _say(self, text: str) -> None:
        print(f"suite: host {self.number}: {text}", file=sys.stderr, flush=True)


def run(tests: Sequence[str], keep: Sequence[str], results: Path, count: int) -> int:
    """Runs the tests on ``count`` hosts. Returns 0 when each test that was collected has passed on one of them."""
    from tests.nested.sharing import COLLECTED, FAILED, PASSED

    deadline = monotonic() + TIMEOUT
    hosts = [Host(number, tests, keep, results, deadline) for number in range(count)]
    threads = [Thread(target=host.run) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for host in hosts:
        if host.output is not None:
            print(f"suite: host {host.number} printed:\n{host.output.read_text(errors='replace')}", flush=True)
    failed = [test for host in hosts for test in host.share.lines(FAILED)]
    passed = [test for host in hosts for test in host.share.lines(PASSED)]
    wanted = {count for host in hosts for count in host.share.lines(COLLECTED)}
    for test in failed:
        print(f"suite: failed {test}", file=sys.stderr)
    print(f"suite: {len(passed)} passed, {len(failed)} failed, of {' or '.join(wanted) or 'no'} tests, on {count} hosts", file=sys.stderr)
    statuses = [host.status for host in hosts if host.status]
    return max(statuses, default=0) or int(bool(failed) or wanted != {str(len(passed))} or not passed)


if __name__ == "__main__":
    sys.exit(main())
