"""A drawing that becomes one SVG file: text stays text, colours follow the reader's light or dark, and nothing is fetched.

What is written may be a guest's (a name, a string of its memory), so every text is escaped, stripped of what XML forbids, and cut.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

WIDTH = 900
LINE = 16  # from one line of text to the next
_MONO = 0.602  # width of a letter of nearly all monospaced fonts, in units of their size
_SIZES = {"small": 10.5, "mono": 12.0}
_MOST = 400  # letters of one text

_STYLE = """\
:root { color-scheme: light dark; --paper: #fff; --ink: #1d2228; --dim: #656d77; --line: #c9c5bd; --faint: #efede8;
  --guest: #cfe0f0; --kernel: #ddd6f3; --user: #f8dcc0; --device: #cfe8d6; --mark: #b3213a; --choice: #ffeec4; --arrow: #55606c; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #171b20; --ink: #e2e6eb; --dim: #98a1ab; --line: #414952; --faint: #22272e;
    --guest: #2a4560; --kernel: #453b6b; --user: #6b4522; --device: #2b5239; --mark: #ff7d90; --choice: #554318; --arrow: #a3adb8; }
}
text { font: 12px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: var(--ink); white-space: pre; }
.small { font-size: 10.5px; }
.dim { fill: var(--dim); }
.head { font-weight: 700; }
.title { font: 700 16px system-ui, "DejaVu Sans", sans-serif; }
.note { font: 12px system-ui, "DejaVu Sans", sans-serif; fill: var(--dim); }
.red { fill: var(--mark); }
.middle { text-anchor: middle; }
.end { text-anchor: end; }
.paper { fill: var(--paper); }
.box { fill: var(--paper); stroke: var(--line); }
.faint { fill: var(--faint); }
.guest { fill: var(--guest); }
.kernel { fill: var(--kernel); }
.user { fill: var(--user); }
.device { fill: var(--device); }
.choice { fill: var(--choice); stroke: var(--line); }
.edge { stroke: var(--line); }
.rule { stroke: var(--line); fill: none; }
.dash { stroke: var(--line); fill: none; stroke-dasharray: 3 3; }
.arrow { stroke: var(--arrow); fill: none; stroke-width: 1.3; marker-end: url(#tip); }
.hot { stroke: var(--mark); fill: none; stroke-width: 1.6; marker-end: url(#hot); }
.tip { fill: var(--arrow); }
.hottip { fill: var(--mark); }
"""


def clean(text: str, most: int = _MOST) -> str:
    """A text for a picture: escaped, printable, no longer than ``most`` letters."""
    if len(text) > most:
        text = text[: max(most - 1, 0)] + "\u2026"
    # not isprintable: control characters and lone surrogates, of which XML 1.0 (2.2) allows neither
    text = "".join(each if each.isprintable() else "\ufffd" for each in text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


def letters(width: float, size: str = "mono") -> int:
    """How many letters have room in so many pixels."""
    return max(int(width / (_SIZES[size] * _MONO)), 1)


class Drawing:
    """A picture, WIDTH wide, as high as it turns out to be.

    Args:
        title: stands above it, and is what a screen reader says.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._parts: list[str] = []
        self.bottom = 0.0  # of all that was drawn
        self.text(16, 28, title, "title", 100)

    def _add(self, part: str, bottom: float) -> None:
        self._parts.append(part)
        self.bottom = max(self.bottom, bottom)

    def text(self, x: float, y: float, text: str, look: str = "", most: int = _MOST) -> None:
        """A line of text on its base line; ``look``: classes of the style."""
        dressed = f' class="{look}"' if look else ""
        self._add(f'<text x="{x:g}" y="{y:g}"{dressed}>{clean(text, most)}</text>', y)

    def lines(self, x: float, y: float, texts: Iterable[str], look: str = "") -> float:
        """Several below each other; returns where the next would stand."""
        for each in texts:
            self.text(x, y, each, look)
            y += LINE
        return y

    def box(self, x: float, y: float, width: float, height: float, look: str = "box", tip: str = "") -> None:
        """A rectangle; ``tip`` is shown where a mouse rests."""
        inside = f"><title>{clean(tip)}</title></rect>" if tip else "/>"
        self._add(
            f'<rect x="{x:g}" y="{y:g}" width="{max(width, 0):g}" height="{max(height, 0):g}" rx="2" class="{look}"{inside}', y + height
        )

    def path(self, steps: str, look: str, bottom: float = 0) -> None:
        """Any line, in SVG's path language; numbers only."""
        self._add(f'<path d="{steps}" class="{look}"/>', bottom)

    def line(self, x1: float, y1: float, x2: float, y2: float, look: str = "rule") -> None:
        """A straight one; with "arrow" or "hot" its end has a tip."""
        self.path(f"M{x1:g} {y1:g}L{x2:g} {y2:g}", look, max(y1, y2))

    def finish(self) -> str:
        """The file."""
        height = int(self.bottom + 16)
        tips = "".join(
            f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" markerUnits="userSpaceOnUse" '
            f'orient="auto"><path d="M0 0L8 4L0 8z" class="{look}"/></marker>'
            for name, look in (("tip", "tip"), ("hot", "hottip"))
        )
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">\n'
            f"<title>{clean(self._title)}</title>\n<style>\n{_STYLE}</style>\n<defs>{tips}</defs>\n"
            f'<rect width="{WIDTH}" height="{height}" class="paper"/>\n'
        )
        return head + "\n".join(self._parts) + "\n</svg>\n"
