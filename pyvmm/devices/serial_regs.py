"""Register table of the 16550A. Sections: National PC16550D data sheet."""

from __future__ import annotations

from pyvmm.devices.device import Register, bits

REGISTERS = (
    Register(name="RBR", offset=0, size=1, access="r", section="8.0", when="DLAB=0"),
    Register(name="THR", offset=0, size=1, access="w", section="8.0", when="DLAB=0"),
    Register(name="DLL", offset=0, size=1, access="rw", reset=12, section="8.3", when="DLAB=1"),
    Register(
        name="IER",
        offset=1,
        size=1,
        access="rw",
        section="8.7",
        when="DLAB=0",
        fields=bits("RDI 0 received data", "THRI 1 transmitter empty", "RLSI 2 line status", "MSI 3 modem status"),
    ),
    Register(name="DLM", offset=1, size=1, access="rw", section="8.3", when="DLAB=1"),
    Register(
        name="IIR",
        offset=2,
        size=1,
        access="r",
        reset=0x01,
        section="8.6",
        fields=bits("NOINT 0 nothing pending", "ID 3:1 3 line status, 2 data, 6 time-out, 1 THR empty, 0 modem", "FIFO 7:6 3 with FIFO"),
    ),
    Register(
        name="FCR",
        offset=2,
        size=1,
        access="w",
        section="8.5",
        fields=bits("EN 0 FIFO enable", "CLRRX 1", "CLRTX 2", "DMA 3", "TRIGGER 7:6 1, 4, 8 or 14 characters"),
    ),
    Register(
        name="LCR",
        offset=3,
        size=1,
        access="rw",
        section="8.1",
        fields=bits("WLEN 1:0 5 to 8 bits", "STOP 2", "PARITY 3", "EVEN 4", "STICK 5", "BREAK 6", "DLAB 7 divisor latch at 0 and 1"),
    ),
    Register(
        name="MCR",
        offset=4,
        size=1,
        access="rw",
        section="8.8",
        fields=bits("DTR 0", "RTS 1", "OUT1 2", "OUT2 3 lets the interrupt through on a PC", "LOOP 4 loopback"),
    ),
    Register(
        name="LSR",
        offset=5,
        size=1,
        access="r",
        reset=0x60,
        section="8.4",
        fields=bits(
            "DR 0 data ready",
            "OE 1 overrun",
            "PE 2 parity",
            "FE 3 framing",
            "BI 4 break",
            "THRE 5 transmit register empty",
            "TEMT 6 transmitter empty",
            "FIFOERR 7 an error in the FIFO",
        ),
    ),
    Register(
        name="MSR",
        offset=6,
        size=1,
        access="r",
        reset=0xB0,
        section="8.9",
        fields=bits("DCTS 0 changed", "DDSR 1", "TERI 2 ring ended", "DDCD 3", "CTS 4", "DSR 5", "RI 6", "DCD 7"),
    ),
    Register(name="SCR", offset=7, size=1, access="rw", section="8.10"),
)
