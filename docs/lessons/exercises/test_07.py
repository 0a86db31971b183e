"""Exercises of lesson 7: docs/lessons/07-smp.md."""


def test_1_wake_all_of_them(answer, check, guest):
    vm = guest(answer.image("07_1.S", 0x100000), format="flat32", smp=4, timeout=10)
    status = vm.wait()
    came = vm.serial.text.count("+")
    check(status == 0, f"the guest did not switch itself off, but ended with status {status}")
    check(came == 3, f"{came} of 3 processors came up. Whom do INIT and SIPI go to?")


def test_2_where_it_begins(answer, check):
    found = answer.number("07_2.txt")
    check(found != 0x9A, "that is the byte itself: it is the number of a page")
    check(found == 0x9A000, f"not at {found:#x}; a page has 4096 bytes")


def test_3_eagain(answer, check):
    found = answer.number("07_3.txt")
    check(found == 7, f"not {found}: each processor but the first waits for INIT, and is woken once")
