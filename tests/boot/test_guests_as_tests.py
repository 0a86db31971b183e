"""Stock Linux by the pytest plugin: a shell to talk to, and to come back to."""

from __future__ import annotations

import pytest

from pyvmm.testing.factory import Factory
from tests.support import linux

pytestmark = [pytest.mark.kvm("ring0-simd", "cmpxchg16b"), pytest.mark.linux]
LIMIT = 240.0  # seconds; host B needs about 20 for all


@pytest.mark.guest("linux", append="console=ttyS0 quiet pyvmm.run=shell", m="256M", no_reboot=True, timeout=LIMIT)
def test_a_shell_before_and_after_a_snapshot(guest: Factory) -> None:
    vm = guest("linux", file=linux.image("cloud", "bzimage"), initrd=linux.initrd())
    vm.serial.expect(rf"{linux.READY} nproc=1", timeout=LIMIT)
    vm.serial.expect("# ", timeout=LIMIT)
    snapshot = vm.snapshot()
    vm.serial.send("echo $((6 * 7)) > /answer; cat /answer\n")
    vm.serial.expect(r"\n42\r", timeout=LIMIT)
    vm.serial.send("poweroff -f\n")
    assert vm.wait() == 0
    vm.restore(snapshot)
    vm.serial.send("cat /answer || echo never $((6 * 8))\n")
    vm.serial.expect(r"never 48", timeout=LIMIT)
    assert vm.exits.count("io", port=0x3F8) > 100
    assert vm.exits.explained()
