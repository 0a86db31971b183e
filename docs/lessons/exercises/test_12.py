"""Exercises of lesson 12: docs/lessons/12-what-stays-in-the-kernel.md."""

WHO = {
    "hlt": ("kernel", "with an interrupt controller of its own it knows what a sleeping vCPU waits for"),
    "add eax, 1": ("processor", "nobody is asked"),
    "out 0x604, ax": ("user", "the power switch is a device of the monitor's"),
    "out 0x43, al": ("kernel", "the 8254 lives there"),
    "in al, 0x3fd": ("user", "a read of COM1 must be answered"),
    "SIPI": ("kernel", "the local APIC lives there"),
    "doorbell": ("kernel", "an ioeventfd: the vCPU does not leave KVM_RUN"),
}


def test_1_wait_without_exits(answer, check, guest):
    vm = guest(answer.image("12_1.S"), format="flat16", timeout=10)
    status = vm.wait()
    check(status == 0 and vm.serial.text == "5", f"it should print 5 and switch itself off; it printed {vm.serial.text!r}, status {status}")
    looks = vm.exits.count(port=0x3FD)
    check(looks == 0, f"it looked {looks} times at port 0x3fd. Which instruction waits for an interrupt?")
    check(vm.exits.count() == 2, f"the character and the power switch are two exits; yours has {vm.exits.count()}")


def test_2_who_handles_it(answer, check):
    lines = [line.partition("#")[0].strip() for line in answer.path("12_2.txt").read_text().splitlines()]
    said = {name.strip(): who.strip() for name, _, who in (line.rpartition(":") for line in lines if line)}
    for name, (who, why) in WHO.items():
        check(said.get(name), f"{name}: nobody yet")
        check(said[name] == who, f"{name}: not {said[name]}. Think of this: {why}")
