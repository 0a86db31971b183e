"""The C half of Python's ``signal`` module: the same functions, without the 9 ms its enums cost at start-up."""

from __future__ import annotations

try:
    import _signal as signal
except ImportError:  # another Python than CPython
    import signal

__all__ = ["signal"]
