"""Every exit of stock Linux's boot, with a disk and two network cards, can be explained: nothing in it is unknown."""

from __future__ import annotations

import pytest

from pyvmm.observe.explain.explain import Explanation
from pyvmm.observe.explain.text import WIDTH, render
from tests.support import linux
from tests.support.explained import explanations

pytestmark = [pytest.mark.kvm("ring0-simd", "cmpxchg16b"), pytest.mark.linux]
LIMIT = 400.0  # seconds
CARDS = ("-drive", "format=scratch,size=1M", "-nic", "hubport,hubid=0,model=e1000", "-nic", "hubport,hubid=0,model=virtio")


def test_nothing_is_unknown() -> None:
    strange: dict[str, int] = {}
    told = 0

    def visit(each: Explanation) -> None:
        nonlocal told
        told += 1
        page = render(each)
        assert max(map(len, page.split("\n"))) <= WIDTH, page
        holes = each.access is not None and each.access.device and not each.access.registers and not each.access.where
        if holes or "not know" in page or "unknown" in page:
            strange[each.title] = strange.get(each.title, 0) + 1

    shown = explanations(
        str(linux.image("cloud", "bzimage")), visit, 1 << 30, "-initrd", str(linux.initrd()), "-append", "console=ttyS0 quiet", "-m", "256",
        *CARDS, repeats=4, timeout=LIMIT,
    )  # fmt: skip
    assert linux.READY in shown, shown[-2000:]
    assert told > 400
    assert not strange, "\n".join(f"{count} times: {title}" for title, count in strange.items())
