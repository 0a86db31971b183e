"""Exercises of lesson 2: docs/lessons/02-real-mode.md."""

import random


def test_1_another_name(answer, check):
    offset = answer.number("02_1.txt")
    check(0x123 * 16 + offset == 0x7C00, f"0123:{offset:04x} is physical {0x123 * 16 + offset:#x}, not 0x7c00")


def test_2_the_right_segment(answer, check, run):
    vm = run(answer.image("02_2.S"))
    check(
        vm.serial.text == "segment times sixteen plus offset\n",
        f"the console has {vm.serial.text!r}: DS times 16 plus SI has to be the physical address of `message`, 0x7c00 and some",
    )


def test_3_beyond_64_kib(answer, check, run):
    text = f"a random number: {random.randrange(1000)}\n"
    vm = run(answer.image("02_3.S"), memory={0x12345: text.encode() + b"\0"})
    check(vm.serial.text == text, f"at 0x12345 stands {text!r}, but the console has {vm.serial.text!r}. Which DS:SI is 0x12345?")
