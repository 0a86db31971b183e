"""Names for samples' addresses: a symbol file, the recorded Linux' own table, or the guest's ELF file."""

from __future__ import annotations

import os

from pyvmm.observe import symbols

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.observe.recording.reader import Recording
    from pyvmm.observe.report.hot import Name
    from pyvmm.observe.symbols import Symbols


def choose(path: str, recording: Recording) -> Name:
    """The best there is.

    Args:
        path: an ELF file or System.map; "" for what the recording and its guest have.
        recording: open.

    Raises:
        ImageError: ``path`` has no symbols.
    """
    if path:
        return of(symbols.load(path))
    from pyvmm.observe.report.kallsyms import find

    found = find(recording.state(recording.count).memory, recording.header.ram)
    if found is None:
        boot = recording.header.config.get("boot")
        kernel = boot.get("kernel", "") if isinstance(boot, dict) else ""
        found = symbols.of_guest(kernel) if isinstance(kernel, str) and os.path.isfile(kernel) else None
    return of(found) if found is not None else none


def of(found: Symbols) -> Name:
    """A function of these names."""
    known: dict[int, str] = {}

    def name(address: int) -> str:
        if address not in known:
            near = found.nearest(address)
            known[address] = near[0] if near is not None else ""
        return known[address]

    return name


def none(address: int) -> str:
    """Nobody knows."""
    return ""
