"""Guests that want to break the VMM: machine code made from a seed.

A hostile guest is a table of slots, one hostile act in each, and a dispatcher that runs them in order. Every exception leads
back to the dispatcher, so an act that faults costs nothing but itself; processors share one counter and so take turns.
The dispatcher's bytes mean the same in 32-bit and 64-bit mode.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from pyvmm import layout
from pyvmm.layout import MIB

RAM = 16 * MIB
BASE, SLOT = 0x10_0000, 64
COUNTER, IDT_POINTER, IDT = 0x8_0000, 0x8_0010, 0x8_1000
AP_START = 0x1_0000  # where application processors begin: SIPI vector 0x10
STACK = 0x7_F000
EXIT = b"\xe7\xf4"  # out 0xf4, eax
DISPATCHER = 0x8_4000

BOARD_PORTS = (
    *(port + offset for port in layout.SERIAL_PORTS for offset in range(8)),
    *range(0x20, 0x22), *range(0xA0, 0xA2), *range(0x40, 0x44), *range(0x4D0, 0x4D2),
    0x60, 0x61, 0x64, 0x70, 0x71, 0x80, 0x92, *range(0xE0, 0xEC), 0x402, *range(0x510, 0x51C), *range(0x600, 0x60C),
    *range(0xCF8, 0xD00), *range(0x2000, 0x2018), 0x8900, 0xFFFD, 0xFFFE, 0xFFFF,
)  # fmt: skip
ENDING_PORTS = {0x60, 0x64, 0x92, 0xCF9, 0x605, 0x604, 0x603, 0x602, 0xF1, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xF7}  # a write may end the run
EDGES = (
    0, 0xFFF, 0x9_FC00, 0xA_0000, 0xF_FFFF, 2 * MIB, RAM, layout.LOW_RAM_END, layout.VIRTIO_MMIO, layout.IOAPIC, layout.IOAPIC + 0x10,
    layout.LAPIC, layout.LAPIC + 0x20, layout.LAPIC + 0x300, layout.LAPIC + 0x1000, layout.TESTDEV_IOMEM, layout.TESTDEV_IOMEM + 0x1_0000,
    layout.IDENTITY_MAP, layout.TSS, layout.TSS + 0x3000, 0xFFFF_FFFF, 1 << 32,
)  # fmt: skip
MSRS = (
    0x10, 0x1B, 0x3A, 0x8B, 0xFE, 0x174, 0x175, 0x176, 0x1A0, 0x1D9, 0x200, 0x2FF, 0x277, 0x6E0, 0x802, 0x808, 0x830, 0x83F, 0xC000_0080,
    0xC000_0081, 0xC000_0082, 0xC000_0100, 0xC000_0101, 0xC000_0102, 0xC000_0103, 0x4B56_4D00, 0x4B56_4D01, 0x4B56_4D02, 0x4000_0000,
)  # fmt: skip


def d(value: int, size: int = 4) -> bytes:
    """A number as it stands in an instruction."""
    return (value & (1 << 8 * size) - 1).to_bytes(size, "little")


class Hostile:
    """One guest.

    Args:
        rng: decides everything.
        bits: 32 or 64.
        smp: processors; above 1 (32 bits only) the first act starts the others.
        acts: how many slots; a power of two.
        wild: also acts that may lose control: control registers, segments, jumps into garbage, ports that end the run.
    """

    def __init__(self, rng: random.Random, bits: int = 32, smp: int = 1, acts: int = 128, wild: bool = False) -> None:
        self.rng = rng
        self.bits = bits
        self.wild = wild
        makers: list[tuple[Callable[[], bytes], int]] = [
            (self.port, 10), (self.string, 5), (self.mmio, 6), (self.locked, 2), (self.move, 2), (self.msr, 3), (self.dma, 2),
            (self.uart, 6), (self.quiet, 1),
        ]  # fmt: skip
        if wild:
            makers += [(self.control, 2), (self.segment, 2), (self.jump, 1), (self.interrupts, 2), (self.garbage, 2)]
        choices = rng.choices([maker for maker, _ in makers], [weight for _, weight in makers], k=acts)
        body = [maker() for maker in choices]
        if smp > 1:
            body[0] = self.start_others()
        self.image = b"".join(self._slot(number, act) for number, act in enumerate(body))
        self.acts = acts

    def _slot(self, number: int, act: bytes) -> bytes:
        assert len(act) <= SLOT - 5, act.hex()
        at = BASE + number * SLOT + len(act)
        return (act + b"\xe9" + d(DISPATCHER - at - 5)).ljust(SLOT, b"\x90")

    def entry(self) -> bytes:
        """What the first processor runs: loads the IDT, then the dispatcher."""
        code = b"\x0f\x01\x1c\x25" + d(IDT_POINTER)  # lidt [IDT_POINTER], by SIB: the same in both modes
        at = BASE + len(self.image) + len(code)
        return code + b"\xe9" + d(DISPATCHER - at - 5)

    def writes(self, code_selector: int, gdt_base: int, gdt_limit: int) -> list[tuple[int, bytes]]:
        """What stands in memory beside the image: [(gpa, bytes)]."""
        dispatcher = b"\xbc" + d(STACK) + b"\xb8" + d(1)  # mov esp, STACK; mov eax, 1
        dispatcher += b"\xf0\x0f\xc1\x04\x25" + d(COUNTER)  # lock xadd [COUNTER], eax
        dispatcher += b"\x3d" + d(self.acts) + b"\x72\x04" + EXIT + b"\xeb\xfe"  # cmp eax, acts; jb on; out 0xf4, eax; jmp .
        dispatcher += b"\xc1\xe0\x06\x05" + d(BASE) + b"\xff\xe0"  # on: shl eax, 6; add eax, BASE; jmp eax
        gate = d(DISPATCHER, 2) + d(code_selector, 2) + b"\0\x8e" + d(DISPATCHER >> 16, 2) + bytes(8 if self.bits == 64 else 0)
        pointer = d(len(gate) * 256 - 1, 2) + d(IDT, 8)
        start = b"\xfa\x8c\xc8\x8e\xd8\x66\x0f\x01\x16" + d(0x100, 2)  # cli; ds = cs; lgdt [0x100]
        start += b"\x0f\x20\xc0\x0c\x01\x0f\x22\xc0\x66\xea" + d(AP_START + 0x80) + d(code_selector, 2)  # PE on; jmp to 32 bits
        on = b"\x66\xb8" + d(code_selector + 8, 2) + b"".join(b"\x8e" + bytes([0xC0 | segment << 3]) for segment in (0, 2, 3))
        on += b"\x0f\x01\x1c\x25" + d(IDT_POINTER)
        on += b"\xe9" + d(DISPATCHER - (AP_START + 0x80 + len(on)) - 5)
        return [
            (DISPATCHER, dispatcher), (IDT, gate * 256), (IDT_POINTER, pointer), (COUNTER, d(0)),
            (AP_START, start), (AP_START + 0x80, on), (AP_START + 0x100, d(gdt_limit, 2) + d(gdt_base, 4)),
        ]  # fmt: skip

    # --- acts -------------------------------------------------------------------------------------------------------------
    def value(self) -> int:
        rng = self.rng
        return rng.choice((rng.getrandbits(32), rng.getrandbits(8), 1 << rng.randrange(32), 0xFFFF_FFFF, 0))

    def a_port(self) -> int:
        rng = self.rng
        while True:
            port = rng.choice(BOARD_PORTS) if rng.random() < 0.8 else rng.randrange(0x1_0000)
            if self.wild or not {port, port + 1, port + 2, port + 3} & ENDING_PORTS:
                return port

    def address(self) -> int:
        rng = self.rng
        near = rng.choice(EDGES) + rng.choice((0, 0, 1, -1, -2, -3, -4, -7, -8, 2, 4, rng.randrange(-64, 64)))
        return rng.choice((near, near, near, rng.randrange(2 * MIB, RAM), rng.getrandbits(32))) & 0xFFFF_FFFF

    def wide_address(self) -> int:
        """64 bits, beyond what is mapped too."""
        rng = self.rng
        return self.address() if rng.random() < 0.8 else rng.choice((rng.getrandbits(64), (1 << 32) + self.address(), (1 << 64) - 4))

    def port(self) -> bytes:
        code = self.rng.choice((b"\xee", b"\x66\xef", b"\xef", b"\xec", b"\x66\xed", b"\xed"))  # out, in: byte, word, doubleword
        return b"\xba" + d(self.a_port()) + b"\xb8" + d(self.value()) + code

    def uart(self) -> bytes:
        """Configures COM1 and reads and writes it while the host types."""
        rng, code = self.rng, b""
        for _ in range(rng.randrange(1, 6)):
            code += b"\x66\xba" + d(0x3F8 + rng.randrange(8), 2)
            code += rng.choice((b"\xec", b"\xb0" + bytes([rng.getrandbits(8) & rng.getrandbits(8)]) + b"\xee"))
        if rng.random() < 0.3:  # and prints by polling until the kernel coalesces: mov ecx, 100; out; loop
            code = b"\x66\xba\xf8\x03\xb9" + d(100) + b"\xee\xe2\xfd" + code
        return code

    def string(self) -> bytes:
        rng = self.rng
        code = rng.choice((b"\xf3\x6c", b"\x66\xf3\x6d", b"\xf3\x6d", b"\xf3\x6e", b"\x66\xf3\x6f", b"\xf3\x6f"))  # rep ins, rep outs
        count = rng.choice((0, 1, 2, 3, 50, rng.randrange(300), rng.randrange(300), rng.randrange(300), rng.randrange(5000)))
        flags = rng.choice((b"\xfc", b"\xfc", b"\xfd"))  # cld, std
        address = rng.choice((self.address(), 2 * MIB + 0xFFD, RAM - 2, 0xFFFF_FFFE))
        return flags + b"\xba" + d(self.a_port()) + b"\xb9" + d(count) + b"\xbe" + d(address) + b"\xbf" + d(address) + code + b"\xfc"

    def _pointer(self) -> bytes:
        return b"\x48\xbb" + d(self.wide_address(), 8) if self.bits == 64 else b"\xbb" + d(self.address())  # mov rbx or ebx

    def mmio(self) -> bytes:
        rng = self.rng
        codes = [b"\x88\x03", b"\x66\x89\x03", b"\x89\x03", b"\x8a\x03", b"\x66\x8b\x03", b"\x8b\x03", b"\xc7\x03" + d(self.value())]
        codes += [b"\x48\x89\x03", b"\x48\x8b\x03"] if self.bits == 64 else [b"\xff\x33", b"\x8f\x03"]  # 8 bytes; push, pop
        codes += [b"\x0f\x11\x03", b"\x0f\x10\x03"]  # movups
        codes += [b"\x0f\xae\x03", b"\xdd\x03"] if self.wild else []  # fxsave, fld: 512 bytes, 8; not every KVM's ring 0 has them
        return self._pointer() + b"\xb8" + d(self.value()) + rng.choice(codes)

    def locked(self) -> bytes:
        codes = (b"\x86\x03", b"\x87\x03", b"\xf0\x01\x03", b"\xf0\x0f\xb1\x0b", b"\xf0\x0f\xc7\x0b", b"\xff\x03", b"\xf7\x13")
        return self._pointer() + self.rng.choice(codes)  # xchg, lock add, lock cmpxchg, lock cmpxchg8b, inc, not

    def move(self) -> bytes:
        rng = self.rng
        count = rng.choice((1, 2, 7, rng.randrange(200)))
        code = rng.choice((b"\xf3\xa4", b"\x66\xf3\xa5", b"\xf3\xa5", b"\xf3\xaa", b"\xf3\xab", b"\xf3\xa6", b"\xf3\xae"))
        return b"\xb9" + d(count) + b"\xbe" + d(self.address()) + b"\xbf" + d(self.address()) + code

    def msr(self) -> bytes:
        rng = self.rng
        number = rng.choice(MSRS) if rng.random() < 0.8 else rng.getrandbits(32)
        high = rng.choice((0, 0, self.value()))
        return b"\xb9" + d(number) + b"\xb8" + d(self.value()) + b"\xba" + d(high) + rng.choice((b"\x0f\x30", b"\x0f\x30", b"\x0f\x32"))

    def dma(self) -> bytes:
        """Writes an fw_cfg DMA structure somewhere, and its address to the register, big-endian."""
        rng = self.rng
        at = rng.choice((2 * MIB, 2 * MIB + 1, RAM - 16, self.address()))
        control = int.from_bytes(d(rng.getrandbits(5) | rng.choice((0, 0x19, 0x20, rng.getrandbits(16))) << 16)[::-1], "little")
        length = int.from_bytes(d(rng.choice((0, 1, 20, 4096, MIB, RAM, 0xFFFF_FFFF)))[::-1], "little")
        code = b"\xbb" + d(at) + b"\xc7\x03" + d(control) + b"\xc7\x43\x04" + d(length)
        code += b"\xc7\x43\x08" + d(rng.choice((0, 0, self.value()))) + b"\xc7\x43\x0c" + d(self.value())
        return code + b"\x66\xba\x18\x05\xb8" + d(at)[::-1] + b"\xef"  # mov dx, 0x518; mov eax, at; out dx, eax

    def quiet(self) -> bytes:
        """cpuid, rdtsc, pause, wbinvd; vmcall, vmmcall."""
        return self.rng.choice((b"\x0f\xa2", b"\x0f\x31", b"\xf3\x90", b"\x0f\x09", *((b"\x0f\x01\xc1", b"\x0f\x01\xd9") * self.wild)))

    def interrupts(self) -> bytes:
        return self.rng.choice((b"\xfb\x90", b"\xfb\xf4", b"\xcd" + bytes([self.rng.getrandbits(8)]), b"\xcf"))

    def control(self) -> bytes:
        register = self.rng.choice((0, 2, 3, 4, 8))
        return b"\xb8" + d(self.value()) + b"\x0f\x22" + bytes([0xC0 | register << 3]) if register < 8 else b"\xb0\x0f\x44\x0f\x22\xc0"

    def segment(self) -> bytes:
        rng = self.rng
        load = b"\x8e" + bytes([0xC0 | rng.choice((0, 2, 3, 4, 5)) << 3])
        table = self._pointer() + rng.choice((b"\x0f\x01\x13", b"\x0f\x01\x1b", b"\x0f\x00\xd0", b"\x0f\x00\xd8"))  # lgdt lidt lldt ltr
        return b"\xb8" + d(rng.choice((0, 0x10, 0x18, 0x20, self.value()))) + rng.choice((load, load, table))

    def jump(self) -> bytes:
        return b"\xb8" + d(self.address()) + b"\xff\xe0"

    def garbage(self) -> bytes:
        return self.rng.randbytes(self.rng.randrange(1, 40))

    def start_others(self) -> bytes:
        """INIT and two SIPIs to all but self, by the local APIC."""
        code = b"\xbb" + d(layout.LAPIC) + b"\xc7\x83\xf0\0\0\0\xff\x01\0\0"  # software-enable: spurious vector 0x1ff
        for command in (0xC4500, 0xC4610, 0xC4610):
            code += b"\xc7\x83" + d(0x300) + d(command)
        return code
