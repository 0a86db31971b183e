"""Where an initial RAM disk goes: as high in low RAM as the kernel accepts, as boot.rst advises ("as high as possible")."""

from __future__ import annotations

from pyvmm import layout
from pyvmm.boot.image import open_image
from pyvmm.boot.plan import ram_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.boot.plan import Placement
    from pyvmm.config import Config


def place_initrd(config: Config, place: Placement, kernel_end: int, highest: int = 0xFFFF_FFFF) -> tuple[int, int]:
    """Places config.boot.initrd, page-aligned; returns (gpa, bytes), (0, 0) without one.

    Args:
        kernel_end: first byte behind the kernel and all it needs while it starts.
        highest: last address the initrd may occupy.

    Raises:
        ImageError: unreadable, or no room between kernel and end of RAM.
    """
    if not config.boot.initrd:
        return 0, 0
    initrd = open_image(config.boot.initrd, "initrd")
    top = min(config.memory, layout.LOW_RAM_END, highest + 1)
    gpa = (top - len(initrd)) // layout.PAGE * layout.PAGE
    if gpa < kernel_end:
        size = -(-len(initrd) // layout.KIB)
        raise initrd.error(
            f"this initrd of {size} KiB does not fit between the kernel's end at {kernel_end:#x} and {top:#x} "
            f"({ram_text(config.memory)} of RAM): raise -m or take a smaller initrd"
        )
    place.write("initrd", gpa, initrd.data)
    return gpa, len(initrd)
