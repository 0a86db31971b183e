"""Exercises of lesson 4: docs/lessons/04-mmio.md."""

FLAT32 = {"format": "flat32", "device": "pc-testdev"}
WINDOW = range(0xFF000000, 0xFF001000)


def test_1_your_device(answer, check):
    printed = answer.program("04_1.py", "docs/lessons/01/first.py")
    found = [line for line in printed.splitlines() if line.startswith("exit:")]
    check(found and "KVM_EXIT_MMIO" in found[0], f"the first exit should be MMIO; it is: {(found or ['none'])[0]}")
    check(len(found) == 3 and "b'Z'" in found[1], "then Z should go out to port 0xe9; your exits:\n" + "\n".join(found))


def test_2_four_exits(answer, check, run):
    vm = run(answer.image("04_2.S", 0x100000), **FLAT32)
    count = vm.exits.count("mmio")
    check(count <= 4, f"{count} exits: how many bytes can one of them carry?")
    check(vm.machine.devices["testdev-memory"].state.data[:16] == b"sixteen bytes...", "the window does not have the text")


def test_3_two_exits(answer, check, run):
    vm = run(answer.image("04_3.S", 0x100000), **FLAT32)
    count = vm.exits.count("mmio")
    check(count <= 2, f"{count} exits: add where it costs nothing")
    check(vm.machine.devices["testdev-memory"].state.data[0] == 3, "the byte is not 3")
