"""``picture WHAT ... FILE.svg``: what the debugger knows, drawn (``pyvmm/observe/picture``)."""

from __future__ import annotations

import os

from pyvmm.exits import exit_name, thaw
from pyvmm.observe.debug.command import Command, CommandError, Line, Reply
from pyvmm.observe.debug.expression import number
from pyvmm.observe.debug.style import PLAIN
from pyvmm.observe.debug.subject import SubjectError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.observe.debug.session import Session

_LATEST = 8  # exits of a timeline that says no more


def _picture(session: Session, line: Line) -> Reply:
    words = line.words
    kinds = [name for name in PICTURES if words and name.startswith(words[0])]
    if len(kinds) != 1:
        raise CommandError(f"give what to draw: {', '.join(PICTURES)}", usage=True)
    if len(words) < 2 or not words[-1].endswith(".svg"):
        raise CommandError("give a file whose name ends in .svg", usage=True)
    path = os.path.expanduser(words[-1])
    shown, text, data = PICTURES[kinds[0]](session, words[1:-1])
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from None
    except ValueError:
        raise CommandError("a path has no NUL in it") from None
    return Reply(text=f"{path}: {shown}", data={"file": path} | data)


# --- a span of exits -----------------------------------------------------------------------------------------------------
def _timeline(session: Session, words: list[str]) -> tuple[str, str, dict[str, Any]]:
    from pyvmm.observe.picture.timeline import MOST, draw

    subject, now = session.subject, session.at().exit
    if len(words) not in (0, 2):
        raise CommandError("give the first and the last exit, or neither", usage=True)
    first, last = (number(each, session) for each in words) if words else (max(now - _LATEST + 1, 1), now)
    if not 0 < first <= last <= subject.last.exit:
        known = subject.last.exit
        told = f"exits 1 to {known} are known" if known else "nothing has happened yet: step goes to the first exit"
        raise CommandError(f"there are no exits {first} to {last}: {told}" if words and known else told)
    many = last - first + 1
    wanted = [*range(first, last + 1)] if many <= MOST else [*range(first, first + MOST // 2), *range(last - MOST // 2 + 1, last + 1)]
    steps = []
    for each in wanted:
        try:
            steps.append(_step(session, each))
        except SubjectError as error:
            raise CommandError(f"exit {each}: {error}") from None
    text = draw(subject.name, steps, subject.vcpus, many - len(steps))
    left = f"; {many - len(steps)} in the middle are left out" if many > len(steps) else ""
    return f"a timeline of exits {first} to {last}{left}", text, {"first": first, "last": last, "drawn": len(steps)}


def _step(session: Session, which: int) -> Any:
    from pyvmm.observe.picture.timeline import Step

    record, told = session.subject.exit(which), session.subject.explain(which)
    title = told.title.removeprefix(f"vCPU {record.vcpu}").lstrip(" :")
    return Step(
        number=which, vcpu=record.vcpu, time=record.time, reason=exit_name(thaw(record.frozen).number), title=title,
        device=told.access.device if told.access is not None else "", took=record.took, inside=record.inside,
    )  # fmt: skip


# --- rings ---------------------------------------------------------------------------------------------------------------
def _ring(session: Session, words: list[str]) -> tuple[str, str, dict[str, Any]]:
    states = session.subject.devices()
    rings = {name: state for name, state in states.items() if isinstance(state.get("queues"), list)}
    cards = {name: state for name, state in states.items() if isinstance(state.get("regs"), dict) and name.endswith("-mac")}
    known = [_plain(name) for name in (*rings, *cards)]
    if not 1 <= len(words) <= 2:
        raise CommandError(f"give a device: {', '.join(dict.fromkeys(known)) or 'this machine has none with rings'}", usage=True)
    wanted = words[0]
    for name, state in rings.items():
        if wanted in (name, _plain(name)):
            return _virtqueue(session, _plain(name), state["queues"], words[1:])
    for name, state in cards.items():
        if wanted in (name, _plain(name)):
            return _card_ring(session, _plain(name), state["regs"], words[1:])
    has = f"rings have {', '.join(dict.fromkeys(known))}" if known else "no device here has rings"
    raise CommandError(f"there is no ring of '{wanted[:40]}': {has}")


def _plain(name: str) -> str:
    """The device's name, without that of its part."""
    return name.removesuffix("-core").removesuffix("-mac")


def _virtqueue(session: Session, name: str, queues: list[dict[str, Any]], words: list[str]) -> tuple[str, str, dict[str, Any]]:
    from pyvmm.observe.picture import virtqueue

    which = number(words[0], session) if words else 0
    if not 0 <= which < len(queues):
        raise CommandError(f"{name} has queues 0 to {len(queues) - 1}")
    if not queues[which].get("enabled"):
        raise CommandError(f"queue {which} of {name} is not enabled: its driver has not set it up yet")
    queue = virtqueue.read(f"{name}, queue {which}", queues[which], session.subject.memory)
    text = virtqueue.draw(queue)
    chains = {head: [each.index for each in chain] for head, chain in queue.chains.items()}
    data = {"available": queue.avail_idx, "used": queue.used_idx, "chains": chains}
    return f"queue {which} of {name}, available {queue.avail_idx}, used {queue.used_idx}", text, data


def _card_ring(session: Session, name: str, regs: dict[Any, Any], words: list[str]) -> tuple[str, str, dict[str, Any]]:
    from pyvmm.observe.picture import cardring

    side = words[0].lower() if words else "tx"
    if side not in cardring.REGISTERS:
        raise CommandError(f"{name} has two rings: tx and rx")
    ring = cardring.read(name, side, regs, session.subject.memory)
    shown = f"the {side} ring of {name}, head {ring.head}, tail {ring.tail}"
    return shown, cardring.draw(ring), {"head": ring.head, "tail": ring.tail, "size": ring.size}


# --- page tables -----------------------------------------------------------------------------------------------------------
def _pagewalk(session: Session, words: list[str]) -> tuple[str, str, dict[str, Any]]:
    from pyvmm.observe.debug.views.pages import page_walk
    from pyvmm.observe.picture.walk import draw

    if not words:
        raise CommandError("give a linear address: $rip, main, 0xffffffff81000000", usage=True)
    linear = number(" ".join(words).removeprefix("*"), session)
    lines, data = page_walk(session, linear, PLAIN)
    return f"the page walk of {linear:#x}: {lines[-1].removeprefix('=> ')}", draw(data, session.place(linear)), data


PICTURES: dict[str, Callable[[Session, list[str]], tuple[str, str, dict[str, Any]]]] = {
    "timeline": _timeline,
    "ring": _ring,
    "pagewalk": _pagewalk,
}

COMMANDS = (
    Command(
        name="picture",
        aliases=("pic",),
        arguments="timeline [FROM TO] | ring DEVICE [QUEUE] | pagewalk ADDRESS  FILE.svg",
        group="looking",
        completes=("picture", "expression", "file"),
        run=_picture,
        help="a drawing as an SVG file: a span of exits, a descriptor ring, a page walk",
        more="""\
picture timeline a.svg          the last exits; picture timeline 10 30 a.svg those of a span
picture ring virtio-blk0 a.svg  a virtqueue with its chains; picture ring virtio-net0 1 a.svg another queue
picture ring e1000-nic0 rx a.svg  a network card's ring with head and tail: tx or rx
picture pagewalk $rip a.svg     a linear address through the guest's page tables""",
    ),
)
