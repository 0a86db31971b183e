"""A span of exits from top to bottom: who has the processor - guest, kernel, user space - and which device answers.

One step of the picture is one exit, so it is not to scale: a guest computes for a millisecond and an answer takes microseconds. Where a
recording has times they are written beside.
"""

from __future__ import annotations

from pyvmm.observe.picture.svg import LINE, WIDTH, Drawing, letters
from pyvmm.observe.picture.walk import wrapped
from pyvmm.record import Record

MOST = 48  # exits drawn: of more, the first and the last
_LANES = 4  # guest lanes: more vCPUs share one
_ROW = 66.0
_TOP = 78.0
_FIRST = 118.0  # x of the first lane
_TEXT = 530.0  # x of the texts


class Step(Record):
    """One exit.

    Fields:
        number, vcpu: its number, and whose.
        time: when it came, nanoseconds.
        reason: "KVM_EXIT_IO".
        title: what happened, in one sentence.
        device: who answered, "" for nobody.
        took, inside: nanoseconds in user space, and in KVM_RUN before; -1: not known.
    """

    number: int
    vcpu: int
    time: int
    reason: str
    title: str
    device: str = ""
    took: int = -1
    inside: int = -1


def short(nanoseconds: int) -> str:
    """A time with three digits or so."""
    value = nanoseconds / 1000
    return f"{value:.1f} us" if value < 100 else f"{value:.0f} us" if value < 10_000 else f"{value / 1000:.1f} ms"


def draw(name: str, steps: list[Step], vcpus: int, left_out: int = 0) -> str:
    """The picture.

    Args:
        name: the guest's.
        steps: in order of time; at most MOST.
        vcpus: of the machine.
        left_out: exits in the middle that are not drawn.
    """
    span = f"exits {steps[0].number} to {steps[-1].number}" if len(steps) > 1 else f"exit {steps[0].number}"
    drawing = Drawing(f"{name}: {span}")
    guests = vcpus if vcpus <= _LANES else 1
    names = [f"vCPU {number}" for number in range(guests)] if guests > 1 else ["guest"]
    names += ["kernel", "user space", "device"]
    step = (_TEXT - 24 - _FIRST) / len(names)
    lanes = [_FIRST + (number + 0.5) * step for number in range(len(names))]
    gap = len(steps) // 2 if left_out else -1
    height = _ROW * (len(steps) + (gap >= 0)) + 6
    wide = min(step - 14, 46)
    for x, text, look in zip(lanes, names, ["guest"] * guests + ["kernel", "user", "device"], strict=True):
        drawing.text(x, _TOP - 24, text, "head middle" if len(names) < 6 else "small head middle")
        drawing.box(x - wide / 2, _TOP - 10, wide, height + 10, "faint")
        if look == "guest":  # a guest runs but where an exit keeps it out
            drawing.box(x - wide / 4, _TOP - 10, wide / 2, height + 10, "guest")
    y = _TOP
    for number, each in enumerate(steps):
        if number == gap:
            drawing.line(8, y + _ROW / 2, WIDTH - 8, y + _ROW / 2, "dash")
            drawing.text(_TEXT, y + _ROW / 2 - 6, f"\u22ee {left_out} exits left out", "small dim")
            y += _ROW
        _exit(drawing, y, each, lanes, wide, min(each.vcpu, guests - 1) if guests > 1 else 0, vcpus)
        y += _ROW
    note = "Time goes down, one step an exit: not to scale. In the kernel: the way out, and the way back in."
    note += " Halted counts as running." if vcpus > 1 else ""
    drawing.text(16, y + 30, note, "note")
    return drawing.finish()


def _exit(drawing: Drawing, y: float, each: Step, lanes: list[float], wide: float, lane: int, vcpus: int) -> None:
    guest, (kernel, user, device) = lanes[lane], lanes[-3:]
    out, back = y + 16, y + 46
    drawing.text(8, out + 4, f"exit {each.number}", "head")
    drawing.text(8, out + 4 + LINE, f"{each.time / 1e6:.3f} ms", "small dim")
    drawing.box(guest - wide / 2 - 1, out, wide + 2, back - out, "faint")  # its vCPU is out
    drawing.box(kernel - wide / 4, out - 3, wide / 2, 8, "kernel")
    drawing.box(kernel - wide / 4, back - 5, wide / 2, 8, "kernel")
    drawing.box(user - wide / 4, out, wide / 2, back - out, "user")
    drawing.line(guest + wide / 4 + 1, out, kernel - wide / 4, out, "arrow")
    drawing.line(kernel + wide / 4, out, user - wide / 4, out, "arrow")
    if each.device:
        drawing.box(device - wide / 4, out + 6, wide / 2, back - out - 12, "device")
        drawing.line(user + wide / 4, out + 8, device - wide / 4, out + 8, "arrow")
        drawing.line(device - wide / 4, back - 8, user + wide / 4, back - 8, "arrow")
    drawing.line(user - wide / 4, back, kernel + wide / 4, back, "arrow")
    drawing.line(kernel - wide / 4, back, guest + wide / 4 + 1, back, "arrow")
    room = WIDTH - _TEXT - 12
    lines = wrapped(each.title, letters(room))
    if len(lines) > 2:
        lines = [lines[0], " ".join(lines[1:])]
    for number, text in enumerate(lines):
        drawing.text(_TEXT, out - 2 + LINE * number, text, "", letters(room))
    facts = [each.reason] if vcpus <= _LANES else [f"vCPU {each.vcpu}", each.reason]
    facts += [f"answer {short(each.took)}"] if each.took >= 0 else []
    facts += [f"KVM_RUN before {short(each.inside)}"] if each.inside >= 0 else []
    drawing.text(_TEXT, out - 2 + LINE * len(lines), ", ".join(facts), "small dim", letters(room, "small"))
    if each.device:
        drawing.text(device, back + 12, each.device, "small dim middle", letters((device - user) * 1.2, "small"))
