"""python -m tests.nested.intel_checks [WORD...]: all checks, or those whose names hold one of the words."""

from __future__ import annotations

import functools
import sys

from tests.nested.intel_checks import debugging, modes, report, states, sweeps


def main(words: list[str]) -> int:
    bench = functools.cache(states.Bench)  # made by the first check that needs it: a failure to make it is that check's
    checks = [*modes.checks(), *states.checks(bench), *sweeps.checks(bench), *debugging.checks()]
    return 1 if report.run([check for check in checks if not words or any(word in check.name for word in words)]) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
