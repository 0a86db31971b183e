"""A recorded boot of Debian's cloud kernel to /init: its size, and how little must be read to be anywhere in it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pyvmm.observe.debug.subject import Moment
from pyvmm.observe.recording.player import Player
from pyvmm.observe.recording.reader import Recording
from tests.support import features, linux

pytestmark = [pytest.mark.kvm("ring0-simd", "cmpxchg16b"), pytest.mark.linux]
LIMIT = 400.0


def test_a_recorded_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "linux.pvm"
    ended = features.run_pyvmm(
        "record", "-kernel", str(linux.image("cloud", "bzimage")), "-initrd", str(linux.initrd()), "-append", "console=ttyS0", "-m", "256",
        "-no-reboot", "--timeout", str(LIMIT), "-o", str(path), timeout=LIMIT + 60,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr.decode()
    size = path.stat().st_size
    with Recording.open(str(path)) as recording:
        assert recording.note == "" and recording.end is not None and recording.end["kind"] == "poweroff"
        print(f"{recording.count} exits, {len(recording.keyframes)} keyframes, {size / 1e6:.1f} MB")
        assert size <= 200e6
        assert b"".join(entry.console for entry in recording.exits()) + recording.end["console"] == ended.stdout
        assert linux.READY.encode() in ended.stdout
        between = [later - earlier for earlier, later in zip(recording.keyframes, recording.keyframes[1:], strict=False)]
        assert max(between) <= 1_100  # what a seek has to go through
        player = Player(recording)
        read: list[int] = []
        body, direct = recording._body, recording._read
        monkeypatch.setattr(recording, "_body", lambda chunk: read.append(chunk.size) or body(chunk))  # type: ignore[func-returns-value]
        monkeypatch.setattr(recording, "_read", lambda at, length: read.append(length) or direct(at, length))  # type: ignore[func-returns-value]
        chance = random.Random(1)
        for number in chance.sample(range(1, recording.count + 1), 20):
            read.clear()
            player.goto(Moment(exit=number))
            assert player.regs(0).rip and player.memory.contains(0x1000, 4096)
            assert player.explain(number).title
            assert sum(read) < 16 << 20
