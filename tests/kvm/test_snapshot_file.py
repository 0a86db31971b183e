"""Snapshot files: whatever is in one, loading it works or ends in one line. PYVMM_FUZZ=100000 for the long version."""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyvmm.errors import ConfigError
from pyvmm.layout import PAGE
from pyvmm.machine import Machine
from pyvmm.snapshot import file, plain
from tests.support import features, replay

pytestmark = pytest.mark.kvm
CASES = int(os.environ.get("PYVMM_FUZZ", "2000"))
SETTINGS = replay.config("hello", "-m", "2M", "-device", "virtio-rng-pci", "-device", "virtio-rng-device", "-nic", "none")


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine(SETTINGS, replay.collectors(SETTINGS)) as made:
        yield made


@pytest.fixture(scope="module")
def good(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "snapshot"
    file.write(machine.save(), str(path))
    return path.read_bytes()


def sealed(head: Any, rest: bytes, version: int = file.VERSION) -> bytes:
    """A file with a right check sum."""
    packed = head if isinstance(head, bytes) else plain.pack(head)
    body = packed + rest
    return file._START.pack(file.MAGIC, version, zlib.crc32(body), len(packed)) + body


def parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    *_, length = file._START.unpack(data[: file._START.size])
    body = data[file._START.size :]
    return plain.unpack(body[:length]), body[length:]


def refused(machine: Machine, path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        file.load(machine, str(path))
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def test_a_file_is_what_was_written(machine: Machine, good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(good)
    head, rest = parts(good)
    assert sealed(head, rest) == good
    back = file.load(machine, str(path))
    file.write(back, str(tmp_path / "again"))
    again, _ = parts((tmp_path / "again").read_bytes())
    assert again == head


def test_each_way_to_be_wrong_has_its_line(machine: Machine, good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x"
    head, rest = parts(good)
    assert "no snapshot of pyvmm" in refused(machine, path, b"")
    assert "no snapshot of pyvmm" in refused(machine, path, b"ELF" * 10)
    assert "version 99" in refused(machine, path, sealed(head, rest, 99))
    assert "check sum" in refused(machine, path, good[:-1])
    assert "check sum" in refused(machine, path, good[:100] + b"?" + good[101:])
    assert "check sum" in refused(machine, path, file._START.pack(file.MAGIC, 1, zlib.crc32(b""), 1 << 60))
    assert "too large" in refused(machine, path, good + bytes(70 << 20))
    assert "no head" in refused(machine, path, sealed([], rest))
    assert "other fields" in refused(machine, path, sealed({**head, "more": 1}, rest))
    assert "too few pages" in refused(machine, path, sealed(head, zlib.compress(b"")))
    assert "damaged" in refused(machine, path, sealed(head, b"not zlib"))
    assert "not in RAM" in refused(machine, path, sealed({**head, "runs": [511, 2]}, rest))
    assert "not in RAM" in refused(machine, path, sealed({**head, "runs": [5, 1, 5, 1]}, rest))
    assert "not in RAM" in refused(machine, path, sealed({**head, "runs": [1 << 90, 1]}, rest))
    assert "not in RAM" in refused(machine, path, sealed({**head, "runs": [0, 1 << 90]}, rest))
    assert "list of pages" in refused(machine, path, sealed({**head, "runs": [1]}, rest))
    devices = head["devices"]
    assert "other devices (rtc)" in refused(
        machine, path, sealed({**head, "devices": {name: devices[name] for name in devices if name != "rtc"}}, rest)
    )
    wrong = {**devices, "rtc": {**devices["rtc"], "ram": b"short"}}
    assert "the snapshot's rtc" in refused(machine, path, sealed({**head, "devices": wrong}, rest))
    vcpu = {**head["vcpus"][0], "lapic": b""}
    assert "lapic has another size" in refused(machine, path, sealed({**head, "vcpus": [vcpu]}, rest))
    assert "vcpus" in refused(machine, path, sealed({**head, "vcpus": []}, rest))
    assert "cannot read the snapshot" in _missing(machine, tmp_path)


def _missing(machine: Machine, folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        file.load(machine, str(folder / "nothing"))
    return str(caught.value)


def test_a_bomb_takes_no_more_memory_than_the_guest(machine: Machine, good: bytes, tmp_path: Path) -> None:
    head, _ = parts(good)
    path = tmp_path / "x"
    path.write_bytes(sealed({**head, "runs": [0, 512]}, zlib.compress(bytes(512 << 20))))
    snapshot = file.read(machine, str(path))
    assert len(snapshot.memory.own) * PAGE == machine.memory.size


def test_a_folder_that_does_not_take_it(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot write the snapshot"):
        file.write(machine.save(), str(tmp_path / "none" / "x"))
    (tmp_path / "full").mkdir()
    with pytest.raises(ConfigError, match="cannot write the snapshot"):
        file.write(machine.save(), str(tmp_path / "full"))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["full"]


def test_damaged_files_are_refused(machine: Machine, good: bytes, tmp_path: Path) -> None:
    generator = random.Random(11)
    path = tmp_path / "x"
    for _ in range(CASES // 4):
        data = bytearray(good)
        for _ in range(generator.randint(1, 5)):
            data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        if generator.random() < 0.3:
            del data[generator.randrange(len(data)) :]
        if bytes(data) != good:
            refused(machine, path, bytes(data))


def test_forged_files_load_or_are_refused(machine: Machine, good: bytes, tmp_path: Path) -> None:
    generator = random.Random(13)
    path = tmp_path / "x"
    loaded = 0
    for _ in range(CASES // 4):
        head, rest = parts(good)
        for _ in range(generator.randint(1, 3)):
            _forge(generator, head[generator.choice(["vcpus", "vm", "devices", "devices", "devices"])])
        path.write_bytes(sealed(head, rest))
        try:
            file.load(machine, str(path))
            loaded += 1
        except ConfigError as error:
            assert "\n" not in str(error)
    assert loaded > CASES // 50


def _forge(generator: random.Random, value: Any) -> None:
    """Changes something in nested plain data."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = generator.choice(keys)
        inner = value[key]
        if isinstance(inner, (dict, list)) and inner and generator.random() < 0.95:
            value = inner
            continue
        if isinstance(inner, bytes) and inner and generator.random() < 0.9:
            forged = bytearray(inner)
            forged[generator.randrange(len(forged))] = generator.randrange(256)
            value[key] = bytes(forged)
        elif type(inner) is int and generator.random() < 0.9:
            value[key] = generator.choice([inner ^ 1 << generator.randrange(40), -inner, 0, 1 << generator.randrange(100)])
        else:
            value[key] = generator.choice([0, 1, -1, 1 << 31, 1 << 64, 1 << 200, None, True, b"", b"x", "", [], {}, "text"])
        return


def test_the_command_line_says_it_in_one_line(good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(good)
    ended = features.run_pyvmm("run", "hello", "--load", str(path))
    assert ended.returncode == 2
    assert ended.stderr.decode().strip().startswith(f"pyvmm: {path}: the snapshot is of another machine: -m was 2097152")
    options = ["-m", "2M", "-device", "virtio-rng-pci", "-device", "virtio-rng-device", "-nic", "none", "-serial", "null", "--load"]
    assert features.run_pyvmm("run", "hello", *options, str(path), timeout=30).returncode == 0
