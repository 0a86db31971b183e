"""``pyvmm bench``: the paired benchmarks against QEMU and a bare C loop, which a checkout has and an installed package has not."""

from __future__ import annotations

import os
import sys

import pyvmm
from pyvmm.errors import ConfigError


def command(arguments: list[str]) -> int:
    """Becomes ``python -m tests.bench`` with the same options. ConfigError without a checkout."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(pyvmm.__file__)))
    if not os.path.exists(os.path.join(root, "tests", "bench", "__main__.py")):
        raise ConfigError("the benchmarks come with pyvmm's sources, not with the installed package: in a checkout, python -m tests.bench")
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", "tests.bench", *arguments], {**os.environ, "PYTHONPATH": path})
