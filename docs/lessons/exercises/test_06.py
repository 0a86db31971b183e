"""Exercises of lesson 6: docs/lessons/06-interrupts.md."""

import time

import pytest

from pyvmm.testing.vm import GuestTimeout

PATIENCE = 30  # seconds
LSR = 0x3FD
ENOUGH = 50  # looks at LSR: nobody who sleeps needs as many


def test_1_fifty_a_second(answer, check):
    divisor = answer.number("06_1.txt")
    check(divisor in (23863, 23864), f"1,193,182 / {divisor} is {1193182 / divisor if divisor else 0:.1f}, not 50")


def test_2_five_dots(answer, check, guest):
    vm = guest("06_2", file=answer.image("06_2.S"), format="flat16", timeout=PATIENCE)
    try:
        vm.serial.expect(rb"\.")
        vm.wait(2)
    except GuestTimeout:
        pytest.fail("there is no second tick: does the PIC know that the first one has been dealt with?", pytrace=False)
    check(vm.serial.text == ".....", f"the console has {vm.serial.text!r}")


def test_3_asleep(answer, check, guest):
    vm = guest("06_3", file=answer.image("06_3.S"), format="flat16", timeout=PATIENCE)
    vm.serial.expect("r")
    end = time.monotonic() + 0.2  # long enough for one who keeps asking
    while time.monotonic() < end and vm.exits.count(port=LSR) < ENOUGH:
        time.sleep(0.01)
    looks = vm.exits.count(port=LSR)
    check(looks < ENOUGH, f"it has looked at the line status register {looks} times, and nobody has typed yet")
    vm.serial.send("k")
    vm.wait()
    check(vm.serial.text == "rk", f"the key was k; the console has {vm.serial.text!r}")
