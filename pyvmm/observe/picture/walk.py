"""A page walk: the linear address cut into its indices, a table for each, the entry used and its bits, the page at the end.

SDM volume 3A, 4.3 (32 bits), 4.4 (PAE), 4.5 (4 and 5 levels).
"""

from __future__ import annotations

from pyvmm.observe.picture.svg import LINE, WIDTH, Drawing, letters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LEFT, _GAP = 16.0, 22.0
_TOP, _FIELDS, _TABLES = 44.0, 74.0, 156.0  # text, the address' fields, the tables
_ROW = 20.0
_BITS = ("P", "RW", "US", "PWT", "PCD", "A", "D", "PS", "G", "NX")
_MEANS = {
    "P": "present", "RW": "writable", "US": "user may", "PWT": "write-through", "PCD": "uncached", "A": "accessed", "D": "dirty",
    "PS": "large page", "PAT": "PAT", "G": "global", "NX": "no execution",
}  # fmt: skip


def draw(data: dict[str, Any], place: str = "") -> str:
    """The picture.

    Args:
        data: as ``debug.views.pages.page_walk`` makes it.
        place: the address by name, or "".
    """
    linear, levels, depth = data["linear"], data["levels"], data["depth"]
    drawing = Drawing(f"Page walk of linear address {linear:#x}{place}")
    if not levels:
        told = "paging is off: linear addresses are physical" if data["gpa"] is not None else f"page fault: it {data['fault']}"
        drawing.text(_LEFT, _TOP + 24, told, "head")
        return drawing.finish()
    wide = depth > 2
    each_bits = 9 if wide else 10  # of the address: a table has 512 entries of 8 bytes, or 1024 of 4; PAE's first has 4
    width = (WIDTH - 2 * _LEFT - len(levels) * _GAP) / (len(levels) + 1)
    column = [_LEFT + number * (width + _GAP) for number in range(len(levels) + 1)]
    low = 12 + each_bits * (depth - len(levels))  # bits that no table has translated: the offset in the page
    for number, each in enumerate(levels):
        first = low + each_bits * (len(levels) - 1 - number)
        size = 2 if depth == 3 and not number else each_bits
        _field(drawing, column[number], width, f"bits {first + size - 1}-{first}", f"{each['index']}", f"{each['index']:0{size}b}")
    rest = linear & (1 << low) - 1
    _field(drawing, column[-1], width, f"bits {low - 1}-0", f"{rest:#x}", "offset in the page")
    for number, each in enumerate(levels):
        entries = 4 if depth == 3 and not number else 1 << each_bits
        _table(drawing, column[number], width, each, wide, entries, "from cr3" if not number else "")
        target = column[number + 1]
        end = _TABLES + 12
        start = _TABLES + 24 + 2.5 * _ROW
        if "P" in each["bits"]:
            middle = column[number] + width + _GAP / 2
            drawing.path(f"M{column[number] + width:g} {start:g}H{middle:g}V{end:g}H{target - 2:g}", "hot")
    _page(drawing, column[-1], width, data, rest)
    note = f"Each entry has {8 if wide else 4} bytes: entry = table + {8 if wide else 4} * index. What one level forbids no other allows."
    drawing.text(_LEFT, drawing.bottom + 26, note, "note")
    return drawing.finish()


def _field(drawing: Drawing, x: float, width: float, name: str, value: str, detail: str) -> None:
    drawing.text(x + width / 2, _FIELDS - 6, name, "small dim middle")
    drawing.box(x, _FIELDS, width, 40, "choice")
    drawing.text(x + width / 2, _FIELDS + 17, value, "head middle")
    drawing.text(x + width / 2, _FIELDS + 33, detail, "small dim middle")
    drawing.line(x + width / 2, _FIELDS + 40, x + width / 2, _FIELDS + 62, "arrow")


def _table(drawing: Drawing, x: float, width: float, level: dict[str, Any], wide: bool, entries: int, above: str) -> None:
    table = level["gpa"] - (8 if wide else 4) * level["index"]
    drawing.text(x, _TABLES, level["table"], "head")
    drawing.text(x + width, _TABLES, above, "small dim end")
    drawing.text(x, _TABLES + 16, f"at {table:#x}", "small")
    y = _TABLES + 24
    last = entries - 1
    index, faint = level["index"], "faint edge"
    rows: list[tuple[str, str, str]] = [
        ("   0", "", faint) if index else ("", "", ""),
        ("   \u22ee", "", faint) if index > 1 else ("", "", ""),
    ]
    rows = rows if index != 1 else [rows[1], rows[0]]  # next to each other
    rows += [(f"{index:>4}", f"{level['entry']:0{16 if wide else 8}x}", "choice")]
    rows += [("   \u22ee", "", faint)] if index < last - 1 else []
    rows += [(f"{last:>4}", "", faint)] if index < last else []
    for number, (name, value, look) in enumerate(rows):
        if look:
            at = y + number * _ROW
            drawing.box(x, at, width, _ROW, look)
            drawing.text(x + 4, at + 14, name, "small dim" if look != "choice" else "small")
            drawing.text(x + width - 4, at + 14, value, "small end")
    y += 5 * _ROW + 18
    chip, per_row = 29.0, max(int(width // 29), 1)
    shown = [("PAT" if name == "PS" and level["table"] == "PT" else name) for name in _BITS if name != "NX" or wide]
    for number, name in enumerate(shown):
        at_x, at_y = x + chip * (number % per_row), y + 18 * (number // per_row)
        on = name in level["bits"]
        drawing.box(at_x, at_y, chip - 3, 15, "user edge" if on else "faint", f"{_MEANS[name]}: {'yes' if on else 'no'}")
        drawing.text(at_x + (chip - 3) / 2, at_y + 11.5, name, "small middle" if on else "small dim middle")
    y += 18 * ((len(shown) - 1) // per_row + 1) + 14
    words = [_MEANS[name] for name in level["bits"] if name in _MEANS and name != "P"] if "P" in level["bits"] else ["not present"]
    drawing.lines(x, y, words, "small dim")


def _page(drawing: Drawing, x: float, width: float, data: dict[str, Any], offset: int) -> None:
    y = _TABLES
    if data["gpa"] is None:
        drawing.text(x, y, "page fault", "head red")
        many = letters(width, "small")
        drawing.lines(x, y + 18, wrapped(f"it {data['fault']}", many), "small")
        return
    drawing.box(x, y + 4, width, 5 * _ROW + 20, "device edge")
    drawing.text(x, y, "the page", "head")
    drawing.text(x + 6, y + 20, f"at {data['gpa'] - offset:#x}", "small")
    drawing.text(x + 6, y + 20 + 2 * LINE, f"+ {offset:#x}", "small")
    drawing.text(x + 6, y + 20 + 3.5 * LINE, "guest physical", "small dim")
    drawing.text(x + 6, y + 20 + 4.5 * LINE, f"{data['gpa']:#x}", "head")
    allowed = ["user and kernel" if data["user"] else "kernel only", "read and write" if data["writable"] else "read only"]
    drawing.lines(x, y + 5 * _ROW + 50, allowed, "small dim")


def wrapped(text: str, most: int) -> list[str]:
    """Lines of a text, broken at spaces."""
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + 1 + len(word) <= most:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
