"""What the vCPUs' threads find out while a machine moves; ``Control`` makes stops of it."""

from __future__ import annotations

from pyvmm.record import Record


class Event(Record):
    """Something to stop for, perhaps.

    Fields:
        why, vcpu, hits, exit, address: as in ``subject.Stop``; why "" for breakpoints that may be hit, or nothing.
        ahead: the vCPU stands before the instruction with the breakpoint: let go, it hits it once more.
    """

    why: str
    vcpu: int = 0
    hits: list[int] = []
    exit: int = 0
    address: int = 0
    ahead: bool = False


def one_at_a_time(found: list[Event]) -> tuple[list[Event], set[int]]:
    """Of vCPUs that came to breakpoints at once, the first is told of: a stop has room for one, and none is to be lost.

    Returns:
        what counts now, and the vCPUs that are to hit theirs again in the next move, in their own name.
    """
    first = next((event.vcpu for event in found if event.ahead), None)
    again = {event.vcpu for event in found if event.ahead and event.vcpu != first}
    return [event for event in found if not event.ahead or event.vcpu == first], again
