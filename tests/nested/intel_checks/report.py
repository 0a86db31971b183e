"""What the checks say, line by line, so that the outside can count even when the host dies half-way."""

from __future__ import annotations

from collections.abc import Callable

from pyvmm.record import FrozenRecord

# Beginnings of lines; the outside (suite_intel.py) knows them too.
PLANNED, PASSED, FAILED, EXCEPTION = "planned ", "ok ", "FAILED ", "exception "


class Check(FrozenRecord):
    """One thing to find out.

    Fields:
        name: unique, one line.
        run: does it; raises Failed, or returns why the host is known to differ from the hardware, "" if it does not.
    """

    name: str
    run: Callable[[], str]


class Failed(Exception):
    """A check found something else than it should; the message says what."""


def run(checks: list[Check]) -> int:
    """Runs all and prints a line for each; returns how many failed."""
    print(f"{PLANNED}{len(checks)}", flush=True)
    failed = 0
    for check in checks:
        try:
            known = check.run()
        except Failed as error:
            failed += 1
            line = f"{FAILED}{check.name}: {error}"
        except Exception as error:  # a bug here or in pyvmm is this check's failure, not the end of the others
            failed += 1
            line = f"{FAILED}{check.name}: {type(error).__name__}: {error}"
        else:
            line = f"{EXCEPTION}{check.name}: {known}" if known else f"{PASSED}{check.name}"
        print(line, flush=True)
    return failed
