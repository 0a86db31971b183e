"""Exercises of lesson 5: docs/lessons/05-modes-and-paging.md."""

import random

CRASH = 100


def test_1_protected_mode(answer, check, run):
    vm = run(answer.image("05_1.S"))
    check(vm.exit_status != CRASH, "it still crashes: a selector is a place in the table; is that within the limit which LGDT loads?")
    check(vm.serial.text == "protected\n", f"the console has {vm.serial.text!r}")


def test_2_a_walk_by_hand(answer, check):
    address = 0x0000712345678ABC
    indices = [address >> shift & 511 for shift in (39, 30, 21, 12)]
    words = answer.text("05_2.txt").replace(",", " ").split()
    check(len(words) == 4, f"four numbers are wanted, not {len(words)}")
    for table, word, index in zip(("PML4", "PDPT", "PD", "PT"), words, indices, strict=True):
        check(word.isdigit() or word.startswith("0x"), f"{word!r} is not a number; write one like 42 or 0x2a")
        check(int(word, 0) == index, f"not entry {word} of the {table}: nine bits choose it; which ones?")


def test_3_one_more_page(answer, check, run):
    text = f"a random number: {random.randrange(1000)}\n"
    vm = run(answer.image("05_3.S", 0x100000), format="flat64", memory={0x300000: text.encode() + b"\0"})
    check(vm.exit_status != CRASH, "it crashes: 0x8000000000 is not mapped, so the first read is a page fault, which has no handler")
    check(vm.serial.text == text, f"at 0x300000 stands {text!r}, but the console has {vm.serial.text!r}")
