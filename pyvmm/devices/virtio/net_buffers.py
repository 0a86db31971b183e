"""Received frames that need more than one of the driver's buffers (Virtio specification 1.2, 5.1.6.3, 5.1.6.4)."""

from __future__ import annotations

from pyvmm.net.frames import OFFLOAD_HEADER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.devices.virtio.queue import Chain, VirtQueue
    from pyvmm.scatter import Views

    Frame = bytes | bytearray | memoryview

HEADER, LEGACY_HEADER = OFFLOAD_HEADER.size, 10
MERGE_MAX = 256  # buffers for one received frame
LARGE = 1530  # bytes; a longer frame has more than one of the buffers that drivers give (Linux: 1536 bytes and less)


def spread(queue: VirtQueue, header: Frame, frame: Frame) -> bool:
    """``merge`` in one look, for a driver whose chains are plain buffers. False, nothing done: it must go chain by chain."""
    total = HEADER + len(frame)
    buffers = queue.buffers(total, MERGE_MAX)
    if buffers is None or buffers[0][2] < HEADER:
        return False
    data = memoryview(b"".join((header[:10], len(buffers).to_bytes(2, "little"), frame)))
    low, used, at = queue.low, [], 0
    for head, address, length in buffers:
        end = at + length
        if end > total:
            length, end = total - at, total
        low[address : address + length] = data[at:end]
        used.append((head, length))
        at = end
    queue.last_avail = queue.last_avail + len(buffers) & 0xFFFF
    queue.push_together(used)
    return True


def merge(queue: VirtQueue, chains: list[Chain], header: Frame, frame: Frame) -> None:
    """5.1.6.3.2: header in the first, all given back at once."""
    data = memoryview(b"".join((header[:10], len(chains).to_bytes(2, "little"), frame)))
    used = []
    for chain in chains:
        part = data[: chain.writable_length]
        scatter(chain.writable, part)
        used.append((chain.head, len(part)))
        data = data[len(part) :]
    queue.push_together(used)


def scatter(views: Views, data: Frame) -> None:
    """Copies ``data`` into as many views as it needs."""
    at = 0
    for view in views:
        part = data[at : at + len(view)]
        view[: len(part)] = part
        at += len(part)
