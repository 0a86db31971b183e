"""What user space gave the guest, read from the run page once the handler is through."""

from __future__ import annotations

import pytest

from pyvmm.kvm import structs, uapi
from pyvmm.observe.debug.watch import answer


def port(write: bool, size: int, count: int, data: bytes) -> memoryview:
    page = bytearray(0x1100)
    page[structs.RUN_EXIT_REASON] = uapi.KVM_EXIT_IO
    page[structs.RUN_IO_DIRECTION], page[structs.RUN_IO_SIZE] = write, size
    page[structs.RUN_IO_COUNT] = count
    page[structs.RUN_IO_DATA_OFFSET + 1] = 0x10
    page[0x1000 : 0x1000 + len(data)] = data
    return memoryview(page)


@pytest.mark.parametrize(("size", "count"), [(1, 1), (4, 1), (2, 5)])
def test_port_reads(size: int, count: int) -> None:
    data = bytes(range(1, size * count + 1))
    assert answer(port(False, size, count, data + b"junk")) == data
    assert answer(port(True, size, count, data)) == b""


def test_memory_reads() -> None:
    page = bytearray(0x100)
    page[structs.RUN_EXIT_REASON], page[structs.RUN_MMIO_LEN] = uapi.KVM_EXIT_MMIO, 4
    page[structs.RUN_MMIO_DATA : structs.RUN_MMIO_DATA + 8] = b"abcdefgh"
    assert answer(memoryview(page)) == b"abcd"
    page[structs.RUN_MMIO_IS_WRITE] = 1
    assert answer(memoryview(page)) == b""
    page[structs.RUN_EXIT_REASON] = uapi.KVM_EXIT_HLT
    assert answer(memoryview(page)) == b""
