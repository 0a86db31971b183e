"""Tells what virtio-net does to each packet: descriptors, bytes, offload work, used ring, interrupt. Costs nothing while not attached.

``attach`` puts functions in front of the device's own and of its rings', and gives back what takes them away again.
"""

from __future__ import annotations

from pyvmm.devices.virtio.net import CONTROL, MAX_FRAME, RX, TX
from pyvmm.devices.virtio.queue import DESC_INDIRECT, DESC_WRITE
from pyvmm.net.words import checks, offload, summary

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.devices.virtio.net import Frame, VirtioNet
    from pyvmm.devices.virtio.queue import Chain, VirtQueue

_QUEUES = {RX: "rx", TX: "tx", CONTROL: "control"}


class _Wire:
    """The wire, with an ear on it."""

    def __init__(self, inner: Any, heard: Callable[[Frame, Frame | None], None]) -> None:
        self._inner = inner
        self._heard = heard

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def send(self, frame: Frame, header: Frame | None = None) -> None:
        self._heard(frame, header)
        self._inner.send(frame, header)


def attach(device: VirtioNet, say: Callable[[str], None]) -> Callable[[], None]:
    """Sends a line per step of a packet to ``say``. Returns the function that detaches. Machine lock held for both."""
    name, wire = device.name, device.backend
    traced: list[VirtQueue] = []
    pieces: list[Frame] = []
    start, queue_started, send, receive, command = device.start, device.queue_started, device.send, device.receive, device.command

    def listen(index: int, queue: VirtQueue | None) -> None:
        if queue is not None and queue not in traced:
            traced.append(queue)
            _trace_ring(f"{name} {_QUEUES.get(index, index)}", queue, say)

    def traced_start(queues: list[VirtQueue | None], features: int) -> None:
        for index, queue in enumerate(queues):
            listen(index, queue)
        say(f"{name} starts: features {features:#x}, link {'up' if device.link else 'down'}")
        start(queues, features)

    def traced_queue_started(index: int, queue: VirtQueue) -> None:
        listen(index, queue)
        queue_started(index, queue)

    def traced_send(chain: Chain) -> int:
        pieces.clear()
        before = device.counts.tx_dropped
        if chain.readable_length <= device.header_size + MAX_FRAME:
            data = b"".join(chain.readable)
            say(f"{name} tx {len(data)} bytes, header: {offload(data)}; {summary(data[device.header_size:])}")
        work = send(chain)
        if device.counts.tx_dropped != before:
            say(f"{name} tx dropped: {'no link' if not device.link else 'impossible length or header'}")
        return work

    def heard(frame: Frame, header: Frame | None) -> None:
        pieces.append(frame)
        number = f" {len(pieces)}" if len(pieces) > 1 else ""
        if header is not None:
            say(f"{name} tx to the wire{number}: {len(frame)} bytes, left to it: {offload(header)}")
        else:
            say(f"{name} tx to the wire{number}: {len(frame)} bytes, {checks(frame)}")

    def traced_receive(frame: memoryview | bytes, header: Frame | None = None) -> bool:
        counts = device.counts
        dropped, filtered = counts.rx_dropped, counts.filtered
        say(f"{name} rx {summary(frame)}{'' if header is None else ', header: ' + offload(header)}")
        taken = receive(frame, header)
        if not taken:
            say(f"{name} rx no buffers: the wire waits")
        elif counts.filtered != filtered:
            say(f"{name} rx filtered: not what the driver wants")
        elif counts.rx_dropped != dropped:
            say(f"{name} rx dropped: {'no link' if not device.link else 'no driver, or too long for its buffers'}")
        return taken

    def traced_command(data: bytes) -> bool:
        done = command(data)
        say(f"{name} control class {data[0] if data else '-'} command {data[1] if len(data) > 1 else '-'} "
            f"data {data[2:66].hex()}: {'done' if done else 'refused'}")  # fmt: skip
        return done

    for index, queue in enumerate(device.queues):
        listen(index, queue)
    own = vars(device)
    replaced: dict[str, Any] = {
        "start": traced_start, "queue_started": traced_queue_started, "send": traced_send, "receive": traced_receive,
        "command": traced_command,
    }  # fmt: skip
    own.update(replaced)
    device.backend = _Wire(wire, heard)

    def detach() -> None:
        for method in replaced:
            del own[method]
        device.backend = wire
        for queue in traced:
            for method in ("buffers", "pop", "push", "push_together", "put_back", "should_signal"):
                vars(queue).pop(method, None)

    return detach


def _trace_ring(name: str, queue: VirtQueue, say: Callable[[str], None]) -> None:
    pop, push, push_together, put_back, should_signal = queue.pop, queue.push, queue.push_together, queue.put_back, queue.should_signal
    used = queue.next_used  # what was pushed since somebody asked for an interrupt

    def traced_pop() -> Chain | None:
        at = queue.last_avail
        chain = pop()
        if chain is not None:
            say(
                f"{name}[{at & queue.size - 1}] head {chain.head}: {descriptors(queue.walk(chain.head))}{' FAULTY' if chain.faulty else ''}"
            )
        return chain

    def traced_push(head: int, written: int) -> None:
        push(head, written)
        say(f"{name} used: head {head}, {written} bytes written, index {queue.next_used}")

    def traced_push_together(parts: list[tuple[int, int]]) -> None:
        push_together(parts)
        text = ", ".join(f"head {head} {written} bytes" for head, written in parts)
        say(f"{name} used: {text} written, index {queue.next_used}")

    def traced_put_back(count: int) -> None:
        put_back(count)
        say(f"{name} not used after all: {count} of them")

    def traced_should_signal() -> bool:
        nonlocal used
        new, used = queue.next_used != used, queue.next_used
        wanted = should_signal()
        if new:
            say(f"{name} {'interrupt' if wanted else 'no interrupt: the driver wants none yet'}")
        return wanted

    vars(queue).update(
        buffers=lambda total, most: None,  # one by one, by ``pop``
        pop=traced_pop, push=traced_push, push_together=traced_push_together, put_back=traced_put_back, should_signal=traced_should_signal
    )


def descriptors(chain: list[tuple[int, int, int]]) -> str:
    """A chain in words: ADDRESS+LENGTH, r what the device reads, w what it writes, i a table of more."""
    shown = [
        f"{address:#x}+{length}{'i' if flags & DESC_INDIRECT else 'w' if flags & DESC_WRITE else 'r'}"
        for address, length, flags in chain[:24]
    ]
    return " ".join(shown) + (f" and {len(chain) - 24} more" if len(chain) > 24 else "")
