"""An explanation as a page of plain text: at most 100 columns; colour only for those who ask."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.observe.explain.access import Access, Decoded
    from pyvmm.observe.explain.explain import Explanation

WIDTH = 100
_LABEL = 12  # columns of "who", "saw", ...
_BOLD, _DIM, _OFF = "\033[1m", "\033[2m", "\033[0m"
_MOST_CHANGES = 12


def render(explanation: Explanation, colour: bool = False) -> str:
    """The whole page, lines separated by newlines, none at the end."""
    lines = [f"{_BOLD}{line}{_OFF}" if colour else line for line in wrap(explanation.title, WIDTH)]
    rows = [("who", [explanation.who]), ("saw", [explanation.saw]), ("why", [explanation.why]), ("kvm_run", _members(explanation))]
    if explanation.access is not None and explanation.access.device:
        rows.append(("device", _device(explanation.access)))
    if explanation.changed is not None:
        rows.append(("changed", _changes(explanation)))
    rows += [("next", [explanation.reentry]), ("see", [explanation.section])]
    for label, paragraphs in rows:
        first = True
        for paragraph in paragraphs:
            indent = len(paragraph) - len(paragraph.lstrip())
            for number, line in enumerate(wrap(paragraph, WIDTH - _LABEL, indent + 2 if label in ("kvm_run", "device", "changed") else 0)):
                head = f"  {label:<{_LABEL - 2}}" if first and not number else " " * _LABEL
                lines.append((f"{_DIM}{head}{_OFF}" if colour and first and not number else head) + line)
            first = False
    return "\n".join(line.rstrip() for line in lines)


def wrap(text: str, width: int, hanging: int = 0) -> list[str]:
    """Breaks at spaces, keeping the first line's indent and columns; a word that is too long stays whole."""
    if len(text) <= width:
        return [text] if text else []
    lines, rest = [], text
    while len(rest) > width:
        start = len(rest) - len(rest.lstrip())
        cut = rest.rfind(" ", start, width + 1)
        if cut <= start:
            cut = rest.find(" ", width)
            if cut < 0:
                break
        lines.append(rest[:cut].rstrip())
        rest = " " * hanging + rest[cut:].lstrip()
    lines.append(rest)
    return lines


def _members(explanation: Explanation) -> list[str]:
    name_width = max((len(member.name) for member in explanation.members), default=0)
    value_width = min(max((len(member.value) for member in explanation.members), default=0), 32)
    return [
        f"{member.offset:#06x}  {member.name:<{name_width}}  {member.value:<{value_width}}  {member.text}".rstrip()
        for member in explanation.members
    ]


def _device(access: Access) -> list[str]:
    kind = f", {access.kind}" if access.kind else ""
    where = f", {access.where}" if access.where else ""
    lines = [f"{access.device}{kind}{where}, offset {access.offset:#x}"]
    if access.function:
        capability = f", capability {access.capability}" if access.capability else ""
        lines.append(f"shows {access.function}'s configuration space at {access.config_at:#x}{capability}")
    for register in access.registers:
        lines += _register(register)
    if not access.registers:
        lines.append("none of its registers is there")
    if len(access.values) > 1:
        shown = " ".join(f"{value:0{2 * access.size}x}" for value in access.values[:16])
        lines.append(f"all {len(access.values)} values: {shown}{' ...' if len(access.values) > 16 else ''}")
    return lines


def _register(register: Decoded) -> list[str]:
    of = f" {register.of}" if register.of else ""
    value = f" = {register.shown}" if register.shown else ""
    text = f": {register.text}" if register.text else ""
    note = f" [{register.note}]" if register.note else ""
    section = f" ({register.section})" if register.section else ""
    lines = [f"{register.name}{of}{value}{text}{note}{section}"]
    width = max((len(bits.name) for bits in register.bits), default=0)
    places = max((len(bits.place) for bits in register.bits), default=0)
    for bits in register.bits:
        shown = f"{bits.value:#x}" if bits.wide else "1"
        lines.append(f"  {bits.place:<{places}}  {bits.name:<{width}}  {shown:<5} {bits.text}".rstrip())
    if register.clear:
        lines.append(f"  0: {' '.join(register.clear)}")
    return lines


def _changes(explanation: Explanation) -> list[str]:
    found = explanation.changed or []
    lines = [str(change) for change in found[:_MOST_CHANGES]] or ["nothing in any device's state"]
    if len(found) > _MOST_CHANGES:
        lines.append(f"and {len(found) - _MOST_CHANGES} more")
    return lines
