"""Exercises of lesson 3: docs/lessons/03-exits.md."""


def test_1_without_polling(answer, check):
    count = answer.number("03_1.txt")
    check(count == 52, f"not {count}: which of the 103 exits are left, when the reads of LSR are gone?")


def test_2_twenty_exits(answer, check, run):
    vm = run(answer.image("03_2.S"))
    check(vm.serial.text == "exits are not free\n", f"the console has {vm.serial.text!r}")
    count = vm.exits.count()
    check(count <= 20, f"{count} exits: {vm.exits.count(port=0x3FD)} of them only ask whether the UART is ready")


def test_3_status_7(answer, check, run):
    vm = run(answer.image("03_3.S"), device="isa-debug-exit,iobase=0xf4,iosize=4")
    check(vm.exit_status == 7, f"the status is {vm.exit_status}; which v makes (v << 1) | 1 = 7?")


def test_4_who_is_there(answer, check, run):
    image = answer.image("03_4.S")
    for serials, expected in ((["stdio", "null"], "yynn"), (["stdio", "null", "null", "null"], "yyyy")):
        vm = run(image, serial=serials)
        check(vm.serial.text == expected, f"with {len(serials)} serial ports it should print {expected}, not {vm.serial.text}")
