"""Why a machine stops, and what an observer may hear. Devices and the run loop know these names and nothing above them."""

from __future__ import annotations

from pyvmm.record import FrozenRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    RequestStop = Callable[["StopReason"], None]
    """A device's way to end the run: power-off, reset, debug exit. Returns at once; no further guest instruction runs."""

POWEROFF = "poweroff"  # ACPI S5, "Shutdown" port, KVM system event
RESET = "reset"  # i8042, port 0x92, 0xcf9, ACPI reset register
WAKE = "wake"  # out of S3: a machine with the same memory is to go on at the waking vector
DEBUG_EXIT = "debug-exit"  # isa-debug-exit; value = what the guest wrote
HALTED = "halted"  # every vCPU halted for good (no irqchip)
CRASH = "crash"  # triple fault, emulation failure, failed entry: the guest's fault as far as KVM can tell
KVM_ERROR = "kvm-error"  # an ioctl failed
VMM_ERROR = "vmm-error"  # a bug in pyvmm
TIMEOUT = "timeout"  # --timeout ran out
QUIT = "quit"  # the user asked: Ctrl-A x, SIGTERM, Machine.stop()


class StopReason(FrozenRecord):
    """The verdict of a run.

    Fields:
        kind: one of the constants above.
        detail: one line for people.
        value: DEBUG_EXIT: the value written; QUIT by signal: the signal number.
        vcpu: index of the vCPU that caused it, or None.
        report: several lines for people (crash report), or "".
    """

    kind: str
    detail: str = ""
    value: int = 0
    vcpu: int | None = None
    report: str = ""


class Access(FrozenRecord):
    """One access of a guest to a device, as a bus tap sees it (after the device has answered).

    Fields:
        space: "pio" or "mmio".
        address, size: first port or gpa, bytes (1, 2, 4, 8).
        is_write: direction as the guest sees it.
        value: written, or read from the device.
        device: the device's name, "" when unclaimed.
        offset: address relative to the device's base.
    """

    space: str
    address: int
    size: int
    is_write: bool
    value: int
    device: str
    offset: int


def vmm_error(error: BaseException, vcpu: int | None = None) -> StopReason:
    """The verdict for a bug in pyvmm: one line; the traceback only with PYVMM_DEBUG set in the environment."""
    import os

    report = ""
    if os.environ.get("PYVMM_DEBUG"):
        import traceback

        report = "".join(traceback.format_exception(error))
    where = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    place = f" in {os.path.basename(where.tb_frame.f_code.co_filename)}:{where.tb_lineno}" if where is not None else ""
    detail = f"internal error{place}: {type(error).__name__}: {error} (a bug in pyvmm; PYVMM_DEBUG=1 shows the traceback)"
    return StopReason(kind=VMM_ERROR, detail=detail, vcpu=vcpu, report=report)
