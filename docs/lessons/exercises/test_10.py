"""Exercises of lesson 10: docs/lessons/10-time-travel.md."""

import subprocess
import sys


def debug(*words):
    """What the debugger says about hello."""
    command = [sys.executable, "-m", "pyvmm", "debug", "hello", "--batch", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    return done.stdout + done.stderr


def test_1_the_last_letter(answer, check):
    found = answer.number("10_1.txt")
    check(found != 101, "that one asked whether the port is free")
    check(found != 103, "that one switched the machine off")
    check(found == 102, f"not {found}: continue, then reverse-continue COM1.THR, then read the screen")


def test_2_a_hook(answer, check):
    said = debug("-ex", f"python {answer.path('10_2.py')}", "-ex", "continue", "-ex", "info time")
    check("now: exit 103" not in said, "the hook never returned True: the guest ran to its end")
    check("now: exit 94" in said, "it stopped somewhere else than at the third letter o:\n" + said)


def test_3_another_past(answer, check):
    said = debug("-x", answer.path("10_3.txt"), "-ex", "continue")
    check("Hello, World!" in said, "the guest did not greet the World:\n" + said)
