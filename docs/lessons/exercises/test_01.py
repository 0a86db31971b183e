"""Exercises of lesson 1: docs/lessons/01-three-descriptors.md."""

FIRST = "docs/lessons/01/first.py"


def exits(printed: str) -> list[str]:
    """What came out of KVM_RUN."""
    return [line for line in printed.splitlines() if line.startswith("exit:")]


def test_1_two_letters(answer, check):
    found = exits(answer.program("01_1.py", FIRST))
    check(len(found) == 3, f"two letters and a HLT are three exits; yours has {len(found)}:\n" + "\n".join(found))
    check("b'H'" in found[0] and "b'i'" in found[1], "the letters are H, then i; yours are:\n" + "\n".join(found))
    check("KVM_EXIT_HLT" in found[2], f"the last exit is not HLT but: {found[2]}")


def test_2_a_loop(answer, check):
    found = exits(answer.program("01_2.py", FIRST))
    check(len(found) == 27, f"26 letters and a HLT are 27 exits; yours has {len(found)}")
    for letter, line in zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", found, strict=False):
        check(f"b'{letter}'" in line, f"where {letter!r} should go out, this happened: {line}")
    source = answer.path("01_2.py").read_text()
    check(source.count("0xE6") + source.count("0xe6") == 1, "one out instruction is enough: let the guest loop")


def test_3_an_answer(answer, check):
    found = exits(answer.program("01_3.py", FIRST))
    check(found and " in port 0x60" in found[0], f"the first exit should be `in` from port 0x60; it is: {(found or ['none'])[0]}")
    check(
        len(found) == 3 and "out port 0xe9" in found[1] and r"b'\x1e'" in found[1],
        "the guest should have got 0x1e and sent it to port 0xe9. Write it where the kernel looks for it before KVM_RUN is called "
        "again: at run[offset]. Your exits:\n" + "\n".join(found),
    )
