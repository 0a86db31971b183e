"""Exercises of lesson 8: docs/lessons/08-virtqueue.md."""


def test_1_be_the_device(answer, check):
    lines = answer.program("08_1.py").split("\n")[:-1]
    first = lines[0] if lines else "nothing"
    check(first != "write 0x800 1", "descriptor 0 is not where it begins: slot (used idx mod size) of the available ring says where")
    check(first == "read 0x700 16", f"the first buffer is not: {first}")
    check(len(lines) == 3, f"the chain has three buffers, linked by NEXT; yours has {len(lines)}")
    check(lines == ["read 0x700 16", "write 0xa00 512", "write 0x800 1"], "not these buffers:\n" + "\n".join(lines))


def test_2_how_many_wait(answer, check):
    found = answer.number("08_2.txt")
    check(found == 5, f"not {found}: indices count modulo 65536, whatever the size of the ring")


def test_3_bytes_written(answer, check):
    found = answer.number("08_3.txt")
    check(found != 512, "not quite: the data is not all that the device writes")
    check(found == 513, f"not {found}: count the bytes in buffers with the flag WRITE")
