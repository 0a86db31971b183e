"""What a PC may have where this machine has nothing: guests look for it all the same.

Sources: IBM PC/AT Technical Reference (I/O address map); for the others the device's own documents.
"""

from __future__ import annotations

_PORTS = (
    (0x00, 0x10, "the first DMA controller (8237)"),
    (0x22, 2, "the interrupt mode register (IMCR), or a chip set's index"),
    (0x60, 1, "the keyboard controller's data port"),
    (0x64, 1, "the keyboard controller's status port"),
    (0x70, 2, "the clock and its CMOS memory"),
    (0x80, 0x10, "DMA page registers; a write to 0x80 serves as a short delay"),
    (0x92, 1, "system control port A"),
    (0xB2, 2, "the port that raises a system management interrupt"),
    (0xC0, 0x20, "the second DMA controller (8237)"),
    (0xED, 1, "nothing: a write to it serves as a short delay"),
    (0xF0, 0x10, "the coprocessor's error latch"),
    (0x170, 8, "the second IDE controller"),
    (0x1CE, 2, "Bochs' display (VBE)"),
    (0x1F0, 8, "the first IDE controller"),
    (0x200, 8, "the game port"),
    (0x220, 0x10, "a sound card"),
    (0x278, 8, "the second parallel port"),
    (0x279, 1, "ISA Plug and Play"),
    (0x2E8, 8, "COM4"),
    (0x2F8, 8, "COM2"),
    (0x330, 2, "a MIDI port"),
    (0x376, 1, "the second IDE controller's control port"),
    (0x378, 8, "the first parallel port"),
    (0x388, 4, "an FM synthesiser"),
    (0x3B0, 0x30, "a display adapter: MDA, EGA or VGA"),
    (0x3E8, 8, "COM3"),
    (0x3F0, 6, "the floppy controller"),
    (0x3F6, 1, "the first IDE controller's control port"),
    (0x3F7, 1, "the floppy controller"),
    (0x3F8, 8, "COM1"),
    (0x402, 1, "firmware's debug console"),
    (0xA79, 1, "ISA Plug and Play"),
    (0x5658, 2, "VMware's back door"),
    (0xAE00, 0x20, "QEMU's PCI hot plug"),
)
_MEMORY = (
    (0xA_0000, 0x2_0000, "a display adapter's memory"),
    (0xC_0000, 0x3_0000, "ROMs of cards"),
    (0xF_0000, 0x1_0000, "firmware"),
    (0xFEC0_0000, 0x1000, "the I/O APIC"),
    (0xFED0_0000, 0x400, "the high precision event timer (HPET)"),
    (0xFED4_0000, 0x5000, "a security chip (TPM)"),
    (0xFEE0_0000, 0x1000, "the local APIC"),
    (0xFFC0_0000, 0x40_0000, "firmware"),
)


def usual(space: str, address: int) -> str:
    """What many PCs have at a port ("pio") or a guest physical address ("mmio"); "" for nothing in particular."""
    for base, length, name in _PORTS if space == "pio" else _MEMORY:
        if base <= address < base + length:
            return name
    return ""
