"""Exercises of lesson 11: docs/lessons/11-linux-boot.md."""


def test_1_the_setup_header(answer, check):
    lines = answer.program("11_1.py").splitlines()
    check(len(lines) == 3, f"three lines, please; yours has {len(lines)}")
    check(lines[0] == "version 2.15", f"the version's high byte, a dot, its low byte, in decimal; not: {lines[0]}")
    check(lines[1] == "begins at 0x5000", f"setup_sects sectors and the boot sector are before it; not: {lines[1]}")
    check(lines[2] == "entry 0x1000200", f"0x200 bytes behind where it is loaded; not: {lines[2]}")


def test_2_a_kernel(answer, check, guest):
    vm = guest(answer.image("11_2.S", 0), format="linux32", append="in the zero page", m="16M", timeout=10)
    vm.wait()
    shown = vm.serial.text
    check(shown != "K", "it prints K; now its command line")
    check("in the zero page" in shown, f"it was started with: in the zero page; it printed: {shown[:80]!r}")


def test_3_memory(answer, check):
    found = answer.number("11_3.txt")
    check(found != 67, "67 MiB end at 0x4300000: not quite enough")
    check(found == 68, f"not {found}: a MiB is 0x100000 bytes")
