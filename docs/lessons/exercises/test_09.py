"""Exercises of lesson 9: docs/lessons/09-e1000-ring.md."""


def test_1_whose_they_are(answer, check):
    found = answer.text("09_1.txt").replace(",", " ").split()
    check(sorted(found) == ["0", "1", "6", "7"], f"not {' '.join(found)}: from head up to tail, round the end, without the tail itself")


def test_2_a_full_ring(answer, check):
    found = answer.program("09_2.py").split()
    check(found, "no frame was sent: a ring that is full looks like one that is empty")
    missing = [f"frame{number}" for number in range(10) if f"frame{number}" not in found]
    check(not missing, f"lost: {', '.join(missing)}")
    check(found == [f"frame{number}" for number in range(10)], f"each once, in order; not {' '.join(found)}")


def test_3_at_most(answer, check):
    found = answer.number("09_3.txt")
    check(found != 64, "64 descriptors, yes; but what would head = tail mean then?")
    check(found == 63, f"not {found}: RDLEN counts bytes, a descriptor has 16")
