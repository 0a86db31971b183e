"""Tells what a card does to each packet: descriptors, bytes, offload work, interrupts. Costs nothing while not attached.

``attach`` puts functions in front of a card's own (``Transmitter.step``, ``finish`` and ``send``, ``Receiver.take`` and
``store``, ``Interrupts.drive``) and gives back what takes them away again.
"""

from __future__ import annotations

from pyvmm.devices.e1000.constants import ICR, IMS, RDH, RDT, TDT
from pyvmm.devices.e1000.offload import IXSM, TXSM
from pyvmm.devices.e1000.transmit import DEXT, EOP, IC, RS, TSE, VLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.devices.e1000.card import E1000

_CAUSES = {0: "TXDW", 1: "TXQE", 2: "LSC", 3: "RXSEQ", 4: "RXDMT0", 6: "RXO", 7: "RXT0", 9: "MDAC", 12: "PHYINT"}


def causes(value: int) -> str:
    """Interrupt causes in words."""
    return "|".join(_CAUSES.get(bit, f"bit{bit}") for bit in range(17) if value >> bit & 1) or "none"


def summary(frame: bytes | bytearray) -> str:
    """Who sends what to whom: addresses, ethertype, length."""
    target, source = (":".join(f"{byte:02x}" for byte in frame[at : at + 6]) for at in (0, 6))
    return f"{source} > {target} type {int.from_bytes(frame[12:14], 'big'):04x} {len(frame)} bytes"


def attach(card: E1000, say: Callable[[str], None]) -> Callable[[], None]:
    """Sends a line per step of a packet to ``say``. Returns the function that detaches. Machine lock held for both."""
    name, mac = card.name, card.mac
    transmitter, receiver, interrupts, regs = mac.transmitter, mac.receiver, mac.interrupts, mac.regs
    step, finish, send = transmitter.step, transmitter.finish, transmitter.send
    take, store, drive = receiver.take, receiver.store, interrupts.drive

    def traced_step(index: int, low: int, high: int) -> None:
        say(f"{name} tx[{index}] tail {regs[TDT]}: {descriptor(low, high)}")
        step(index, low, high)

    def traced_finish(frame: bytearray, high: int) -> None:
        state = transmitter.state
        work = []
        if high & IC and not high & DEXT:
            work.append(f"checksum from {high >> 40 & 0xFF} at {high >> 16 & 0xFF}")
        if state.tso or state.options:
            low, context_high = state.segmented if state.tso else state.plain
            if state.options & IXSM:
                work.append(f"IP checksum at {low >> 8 & 0xFF}")
            if state.options & TXSM:
                work.append(f"TCP/UDP checksum from {low >> 32 & 0xFF} at {low >> 40 & 0xFF}")
            if state.tso:
                work.append(f"segments of {context_high >> 48} behind {context_high >> 40 & 0xFF} bytes of headers")
        say(f"{name} tx gathered {len(frame)} bytes; {', '.join(work) or 'sent as it is'}")
        finish(frame, high)

    def traced_send(frame: bytearray, tag: bytes, header: bytes | None = None) -> None:
        left = "" if header is None else f", offload header {header.hex()}"
        say(f"{name} tx {summary(frame)}{f', VLAN tag {tag.hex()}' if tag else ''}{left}")
        send(frame, tag, header)

    def traced_take(frame: bytes) -> bool:
        if not mac.filters.accepts(frame.ljust(14, b"\0")):
            say(f"{name} rx filtered: {summary(frame)}")
        taken = take(frame)
        if not taken:
            say(f"{name} rx no descriptors (head {regs[RDH]}, tail {regs[RDT]}): {summary(frame)}")
        return taken

    def traced_store(data: bytes, high: int) -> int:
        head = regs[RDH]
        found = store(data, high)
        if found:
            to = f"rx[{head}..{regs[RDH]}) tail {regs[RDT]}"
            say(f"{name} {to}: {summary(data)}, status {high >> 32 & 0xFF:02x} special {high >> 48:04x}, {causes(found)}")
        return found

    def traced_drive(level: int) -> None:
        say(f"{name} interrupt {'asserted' if level else 'released'}: ICR {causes(regs[ICR])}, enabled {causes(regs[IMS])}")
        drive(level)

    owned = ((transmitter, {"step": traced_step, "finish": traced_finish, "send": traced_send}),
             (receiver, {"take": traced_take, "store": traced_store}), (interrupts, {"drive": traced_drive}))  # fmt: skip
    undo = [(vars(part), method, vars(part).get(method)) for part, replaced in owned for method in replaced]
    for part, replaced in owned:
        vars(part).update(replaced)

    def detach() -> None:
        for attributes, method, before in undo:
            del attributes[method]
            if before is not None:  # another tracer's
                attributes[method] = before

    return detach


def descriptor(low: int, high: int) -> str:
    """A transmit descriptor in words."""
    if high & DEXT and high >> 20 & 0xF == 0:
        layout = f"IP {low & 0xFF}+{low >> 8 & 0xFF}..{low >> 16 & 0xFFFF}, TCP/UDP {low >> 32 & 0xFF}+{low >> 40 & 0xFF}..{low >> 48}"
        return f"context {layout}, headers {high >> 40 & 0xFF}, MSS {high >> 48}{' TSE' if high & TSE else ''}"
    if high & DEXT:
        kind, length = ("data" if high >> 20 & 0xF == 1 else "reserved type"), high & 0xF_FFFF
    else:
        kind, length = "legacy", high & 0xFFFF
    flags = [(EOP, "EOP"), (RS, "RS"), (VLE, "VLE")] + [(TSE, "TSE") if high & DEXT else (IC, "IC")]
    return f"{kind} {low:#x}+{length} {' '.join(text for bit, text in flags if high & bit)}".rstrip()
