"""What ``pyvmm inspect FILE`` says of a guest image: format, rule, entry, mode, headers, or why it cannot boot."""

from __future__ import annotations

from pyvmm.boot import bootparams, detect
from pyvmm.boot.image import open_image
from pyvmm.boot.plan import ram_text
from pyvmm.config import BootConfig, Config
from pyvmm.errors import ConfigError, ImageError
from pyvmm.layout import GIB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.boot.image import Image

MEMORY = 3 * GIB  # a trial size: what does not fit here never will


def describe(path: str, fmt: str = "auto") -> list[str]:
    """Lines about an image, for people.

    Args:
        path: the file.
        fmt: as for ``--format``.

    Raises:
        ImageError: the file cannot be read at all. (One that can be read but not booted is described.)
        ConfigError: no such format.
    """
    image = open_image(path)
    lines = [f"{image.path}: {ram_text(len(image))}"]
    try:
        chosen, rule = detect.recognise(image, fmt)
        lines.append(f"format   {chosen}  ({rule})")
        lines += _headers(image, chosen)
        plan = detect.plan_image(image, Config(boot=BootConfig(kernel=path, fmt=fmt), memory=MEMORY), chosen, rule)
    except (ImageError, ConfigError) as error:
        if isinstance(error, ConfigError) and fmt not in detect.FORMATS:
            raise
        return [*lines, f"cannot boot: {str(error).removeprefix(image.path + ': ')}"]
    lines += [f"entry    {plan.entry:#x} in {plan.mode} mode", *plan.notes]
    used = max([0, *(gpa + len(data) for gpa, data in plan.writes), *(gpa + length for gpa, length in plan.zero)])
    return [*lines, f"memory   {len(plan.writes)} ranges to {used:#x}, {sum(length for _, length in plan.zero)} bytes to clear"]


def _headers(image: Image, fmt: str) -> list[str]:
    """The setup header of a bzImage, field by field; other formats show theirs in the plan's notes."""
    if fmt not in ("linux", "linux32"):
        return []
    version = bootparams.get(image.data, "version")
    return [
        f"  {offset:#05x} {name:20} {bootparams.get(image.data, name):#x}"
        for name, (offset, _, since) in bootparams.SETUP_HEADER.items()
        if since <= version
    ]
