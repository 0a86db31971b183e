"""Waking from S3: what firmware does instead of booting (ACPI 6.5, 16.3.2). Memory has been kept, all else is as after reset."""

from __future__ import annotations

from pyvmm.boot.acpi import FACS, FACS_WAKING_VECTOR, RSDP
from pyvmm.boot.cpu import real_mode
from pyvmm.boot.plan import BootPlan
from pyvmm.layout import ONE_MIB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.memory import GuestMemory


def plan(memory: GuestMemory) -> BootPlan | None:
    """A plan that goes on where the guest asked to, None when it named no address real mode can reach: it boots anew then."""
    signature, vector = memory.unpack(f"<4s{FACS_WAKING_VECTOR - 4}xI", FACS)
    if memory.read(RSDP, 8) != b"RSD PTR " or signature != b"FACS" or not 0 < vector < ONE_MIB:
        return None
    # 5.2.10: CS is the address shifted right by four bits, IP its low four
    state = real_mode(vector & 0xF)
    state.cs = state.cs.replace(base=vector & ~0xF, selector=vector >> 4)
    return BootPlan(format="resume", rule="S3 waking vector", mode="real", entry=vector, writes=[], zero=[], state=state, notes=[])
