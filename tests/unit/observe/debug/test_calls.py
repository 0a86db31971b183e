"""pyvmm/observe/debug/views/calls.py: return addresses on a stack."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pyvmm.observe.debug.views import calls

CODE, STACK = 0x1000, 0x8000


@pytest.mark.parametrize(
    ("code", "is_call"),
    [
        ("90 90 e8 44 33 22 11", True),  # call rel32
        ("90 90 90 90 90 ff d0", True),  # call rax
        ("90 90 90 90 41 ff d3", True),  # call r11
        ("90 90 90 90 ff 50 10", True),  # call [rax+0x10]
        ("90 90 90 ff 54 24 08", True),  # call [rsp+8]
        ("90 ff 15 44 33 22 11", True),  # call [rip+...]
        ("ff 14 25 44 33 22 11", True),  # call [...]
        ("90 90 90 90 90 ff e0", False),  # jmp rax
        ("90 90 90 90 90 ff 30", False),  # push [rax]
        ("90 90 90 90 90 90 90", False),
    ],
)
def test_what_can_be_a_call(code: str, is_call: bool) -> None:
    assert calls.ends_in_call(bytes.fromhex(code)) is is_call


def session(words: list[int], code: dict[int, bytes]) -> Any:
    memory = bytearray(0x9000)
    for address, data in code.items():
        memory[address - len(data) : address] = data
    memory[STACK : STACK + 8 * len(words)] = b"".join(each.to_bytes(8, "little") for each in words)
    return SimpleNamespace(
        word=8,
        vcpu=0,
        subject=SimpleNamespace(regs=lambda vcpu: SimpleNamespace(rsp=STACK)),
        some=lambda address, length: bytes(memory[address : address + length]) if address >= 0 else b"",
        place=lambda address: " <name>" if CODE <= address < CODE + 0x1000 else "",
    )


def test_only_what_lies_behind_a_call_in_a_function_with_a_name() -> None:
    call = bytes.fromhex("e800000000")
    guest = session(
        [7, 0x1100, 0x1200, 0, 0x1300, 0x3000, 0x1400, (1 << 64) - 1],
        {0x1100: call, 0x1300: b"\xff\xd0", 0x1400: call, 0x3000: call},
    )
    assert calls.guess(guest, 20) == [0x1100, 0x1300, 0x1400]
    assert calls.guess(guest, 2) == [0x1100, 0x1300]
    assert calls.guess(session([], {}), 20) == []
