"""Other dice for every test that throws some: PYVMM_FUZZ_SEED=N makes ``random.Random(x)`` one of (N, x), for any x.

Tests seed their own generators, so that a failure comes back. The fuzzers' endless run (``python -m tests.fuzz``) wants new dice in each
round, that come back as well; and from every test, not from those that thought of it.
"""

from __future__ import annotations

import os
import random
from typing import Any

VARIABLE = "PYVMM_FUZZ_SEED"


def apply() -> None:
    """Before tests are imported: some throw dice then."""
    lot = os.environ.get(VARIABLE, "")
    if not lot:
        return

    class Random(random.Random):
        def __init__(self, seed: Any = None) -> None:
            super().__init__(None if seed is None else f"{lot} {seed!r}")

    random.Random = Random  # type: ignore[misc, assignment]
