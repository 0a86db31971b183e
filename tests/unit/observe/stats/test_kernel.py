"""KVM_GET_STATS_FD's file (api.rst, 4.133), as a temporary file of the same shape."""

from __future__ import annotations

import os
from pathlib import Path
from struct import pack

import pytest

from pyvmm.observe.stats.kernel import KernelStats

NAME = 16
CUMULATIVE, LOG_HISTOGRAM, SECONDS = 0x00, 0x04, 0x20


def _file(path: Path, fields: list[tuple[str, int, int, list[int]]], identity: bytes = b"kvm-1/vcpu-0", count: int | None = None) -> int:
    """A descriptor of statistics: fields are (name, flags, exponent, values)."""
    descriptors, data = b"", b""
    for name, flags, exponent, values in fields:
        descriptors += pack("<IhHII", flags, exponent, len(values), len(data), 0) + name.encode().ljust(NAME, b"\0")
        data += pack(f"<{len(values)}Q", *values)
    desc_offset = 24 + NAME
    header = pack("<6I", 0, NAME, len(fields) if count is None else count, 24, desc_offset, desc_offset + len(descriptors))
    path.write_bytes(header + identity.ljust(NAME, b"\0") + descriptors + data)
    return os.open(path, os.O_RDONLY)


def test_names_values_and_units(tmp_path: Path) -> None:
    fields = [
        ("exits", CUMULATIVE, 0, [1234]),
        ("halt_wait_ns", SECONDS, -9, [5_000_000_000]),
        ("halt_us", SECONDS, -6, [7]),
        ("halt_hist", LOG_HISTOGRAM | SECONDS, -9, [1, 2, 3]),
    ]
    stats = KernelStats(_file(tmp_path / "stats", fields))
    assert stats.id == "kvm-1/vcpu-0"
    assert stats.read() == {"exits": 1234, "halt_wait_ns": 5_000_000_000, "halt_us": 7000, "halt_hist": [1, 2, 3]}
    assert stats.nanoseconds == {"halt_wait_ns", "halt_us", "halt_hist"}
    stats.close()
    stats.close()


def test_counters_are_read_anew(tmp_path: Path) -> None:
    stats = KernelStats(_file(tmp_path / "stats", [("exits", CUMULATIVE, 0, [1])]))
    os.close(_file(tmp_path / "stats", [("exits", CUMULATIVE, 0, [2])]))
    assert stats.read() == {"exits": 2}
    stats.close()


@pytest.mark.parametrize("content", [b"", b"\0" * 23, pack("<6I", 0, 16, 1 << 30, 24, 40, 60), pack("<6I", 0, 1 << 30, 1, 24, 40, 60)])
def test_what_is_no_statistics_is_refused_and_closed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "stats").write_bytes(content)
    fd = os.open(tmp_path / "stats", os.O_RDONLY)
    with pytest.raises(ValueError):
        KernelStats(fd)
    with pytest.raises(OSError):
        os.fstat(fd)


def test_a_file_cut_short_gives_what_is_there(tmp_path: Path) -> None:
    fd = _file(tmp_path / "stats", [("exits", CUMULATIVE, 0, [1]), ("halt_exits", CUMULATIVE, 0, [2])])
    stats = KernelStats(fd)
    os.truncate(tmp_path / "stats", os.path.getsize(tmp_path / "stats") - 8)
    assert stats.read() == {"exits": 1}
    stats.close()
