"""What a BIOS leaves in memory for a guest that may rely on it: an interrupt vector table whose entries lead somewhere.

There is no BIOS and there are no BIOS services. But Multiboot promises a machine "in normal working order, i.e. as
initialized by the BIOS" (specification 0.6.96, 3.2), and a guest that goes to real mode with interrupts on gets the
timer's, and spurious ones. So every vector returns, those of the PICs after an end-of-interrupt.
"""

from __future__ import annotations

from struct import pack

from pyvmm.layout import PIC_MASTER_VECTOR, PIC_SLAVE_VECTOR

SEGMENT = 0xF000
# Where the IBM PC/AT's BIOS had its timer interrupt and its "dummy return"; the one for the slave is put between.
MASTER_EOI, SLAVE_EOI, RETURN = 0xFEA5, 0xFEC0, 0xFF53

_CODE = (
    (MASTER_EOI, "50 b020 e620 58 cf"),  # push ax; mov al,0x20; out 0x20,al; pop ax; iret
    (SLAVE_EOI, "50 b020 e6a0 e620 58 cf"),  # the same, with out 0xa0,al first
    (RETURN, "cf"),  # iret
)


def memory() -> list[tuple[str, int, bytes]]:
    """[(what, gpa, bytes)] to write."""
    vectors = [RETURN] * 256
    vectors[PIC_MASTER_VECTOR : PIC_MASTER_VECTOR + 8] = [MASTER_EOI] * 8
    vectors[PIC_SLAVE_VECTOR : PIC_SLAVE_VECTOR + 8] = [SLAVE_EOI] * 8
    table = b"".join(pack("<HH", offset, SEGMENT) for offset in vectors)
    return [("real-mode interrupt vectors", 0, table)] + [
        ("interrupt handler", (SEGMENT << 4) + offset, bytes.fromhex(code)) for offset, code in _CODE
    ]
