"""Exit statuses of the ``pyvmm`` command.

Statuses from isa-debug-exit are odd, (value << 1) | 1, so pyvmm's own are even and never collide with them.
"""

from __future__ import annotations

from pyvmm import events

OK = 0  # the guest powered off, or reset under -no-reboot; or the user quit with Ctrl-A x
USAGE = 2  # command line, image or host: something to correct, named in one line
CRASH = 100  # triple fault, emulation failure, failed entry: see the report
KVM = 102  # an ioctl failed
VMM = 104  # a bug in pyvmm
TIMEOUT = 124  # --timeout ran out, as timeout(1) says it
SIGNAL = 128  # + number: ended by a signal, as a shell says it

_BY_KIND = {
    events.POWEROFF: OK,
    events.RESET: OK,
    events.WAKE: OK,  # a session goes on; only a library user sees it
    events.HALTED: OK,
    events.CRASH: CRASH,
    events.KVM_ERROR: KVM,
    events.VMM_ERROR: VMM,
    events.TIMEOUT: TIMEOUT,
}


def of(reason: events.StopReason) -> int:
    """The exit status for the way a run ended."""
    if reason.kind == events.DEBUG_EXIT:
        return (reason.value << 1 | 1) & 0xFF
    if reason.kind == events.QUIT:
        return SIGNAL + reason.value if reason.value else OK
    return _BY_KIND[reason.kind]
