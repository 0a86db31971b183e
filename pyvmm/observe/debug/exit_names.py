"""Exit reasons as people write them: hlt, HLT, KVM_EXIT_HLT, 5."""

from __future__ import annotations

from pyvmm.exits import exit_name
from pyvmm.kvm import uapi
from pyvmm.observe.debug.command import CommandError, nearest

NAMES: dict[str, int] = {name.removeprefix("KVM_EXIT_").lower(): number for number, name in sorted(uapi.EXIT_NAMES.items())}
_MOST = 255


def exit_number(text: str) -> int:
    """The number. Raises CommandError."""
    word = text.strip().lower().removeprefix("kvm_exit_").replace("-", "_")
    if word in NAMES:
        return NAMES[word]
    if word.isdigit() and len(word) < 6 and int(word) <= _MOST:
        return int(word)
    close = nearest(word, NAMES)
    raise CommandError(f"no exit reason '{text[:40]}'" + (f": did you mean {close}?" if close else f": {', '.join(NAMES)}"))


def short(number: int) -> str:
    """ "KVM_EXIT_IO" as "io"."""
    return exit_name(number).removeprefix("KVM_EXIT_").lower()
