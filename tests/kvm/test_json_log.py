"""pyvmm run --json-log: docs/guests-as-tests.md has the events."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support import vm
from tests.support.features import run_pyvmm
from tests.support.process import PATIENCE, ROOT, started, wait_until

PAGE = (ROOT / "docs/guests-as-tests.md").read_text()


def events(path: Path) -> list[dict[str, Any]]:
    """Every line, checked against the page: known events with the keys it promises, times that do not go back."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    for each in found:
        row = re.search(rf"^\| (?:`\w+`, )?`{each['event']}`.*$", PAGE, re.M)
        assert row, f"the page does not know {each}"
        cells = row[0].replace("\\|", "").split("|")
        assert set(re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", cells[3]))) == each.keys() - {"event", "time"}
    times = [each["time"] for each in found]
    assert times == sorted(times)
    return found


def flat(tmp_path: Path, code: bytes) -> tuple[str, ...]:
    (tmp_path / "guest").write_bytes(code + vm.HANG)
    return str(tmp_path / "guest"), "-format", "flat32", "--json-log", str(tmp_path / "log")


def say(text: bytes) -> bytes:
    return b"\x66\xba\xf8\x03" + b"".join(b"\xb0" + bytes([each]) + b"\xee" for each in text)


@pytest.mark.kvm
def test_a_guest_from_start_to_end(tmp_path: Path) -> None:
    assert run_pyvmm("run", "hello", "-smp", "2", "--json-log", str(tmp_path / "log")).returncode == 0
    start, run, output, end = events(tmp_path / "log")
    assert (start["event"], start["guest"], start["smp"], start["memory"]) == ("start", "hello", 2, 128 << 20)
    assert (run["event"], run["boot"], run["paused"], run["warnings"]) == ("run", 1, False, [])
    assert (output["event"], output["console"]) == ("output", "serial0")
    assert output["text"].startswith("Hello, world!")
    assert (end["event"], end["reason"], end["status"]) == ("end", "poweroff", 0)


@pytest.mark.kvm
def test_output_comes_by_lines_and_its_rest_at_the_end(tmp_path: Path) -> None:
    code = say(b"one\r\n\ntwo\xff") + vm.POWER_OFF
    assert run_pyvmm("run", *flat(tmp_path, code)).stdout == b"one\r\n\ntwo\xff"
    assert [each["text"] for each in events(tmp_path / "log") if each["event"] == "output"] == ["one", "", "two\ufffd"]


@pytest.mark.kvm
def test_a_line_without_end_is_told_in_pieces(tmp_path: Path) -> None:
    code = bytes.fromhex("b910270000 66baf803 b02e ee e2fd") + vm.POWER_OFF  # 10,000 times '.'
    run_pyvmm("run", *flat(tmp_path, code))
    texts = [each["text"] for each in events(tmp_path / "log") if each["event"] == "output"]
    assert "".join(texts) == "." * 10_000
    assert max(map(len, texts)) <= 8192


@pytest.mark.kvm
def test_resets_and_a_timeout(tmp_path: Path) -> None:
    code = say(b"up\n") + bytes.fromhex("b0fe e664")
    assert run_pyvmm("run", *flat(tmp_path, code), "--timeout", "1").returncode == 124
    found = events(tmp_path / "log")
    kinds = [each["event"] for each in found]
    assert kinds[:6] == ["start", "run", "output", "reset", "run", "output"]
    assert [each["boot"] for each in found if each["event"] == "run"][:3] == [1, 2, 3]
    assert (found[-1]["reason"], found[-1]["status"], found[-1]["detail"]) == ("timeout", 124, "no end after 1 s")


@pytest.mark.kvm
def test_a_crash_has_its_report(tmp_path: Path) -> None:
    assert run_pyvmm("run", *flat(tmp_path, b"\x0f\x0b")).returncode == 100
    end = events(tmp_path / "log")[-1]
    assert (end["reason"], end["status"], end["vcpu"]) == ("crash", 100, 0)
    assert "vCPU 0 died" in end["report"]


@pytest.mark.kvm
def test_the_status_is_that_of_the_process(tmp_path: Path) -> None:
    words = (*flat(tmp_path, bytes.fromhex("b010 e6f4")), "-device", "isa-debug-exit,iobase=0xf4,iosize=4")
    assert run_pyvmm("run", *words).returncode == 33
    assert events(tmp_path / "log")[-1]["status"] == 33


@pytest.mark.kvm
def test_a_signal(tmp_path: Path) -> None:
    with started("run", *flat(tmp_path, say(b"up\n"))) as process:
        wait_until(lambda: (tmp_path / "log").exists() and "up" in (tmp_path / "log").read_text(), "the first line", PATIENCE)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 143
    end = events(tmp_path / "log")[-1]
    assert (end["reason"], end["status"]) == ("quit", 143)


@pytest.mark.kvm
def test_a_virtio_console_has_its_own_name(tmp_path: Path) -> None:
    words = ("-device", "virtio-serial-pci", "-chardev", "null,id=con", "-device", "virtconsole,chardev=con")
    run_pyvmm("run", *flat(tmp_path, say(b"x") + vm.POWER_OFF), *words)
    assert [each["console"] for each in events(tmp_path / "log") if each["event"] == "output"] == ["serial0"]


@pytest.mark.kvm
def test_a_reader_that_takes_nothing_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    reader = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    try:
        code = bytes.fromhex("b900100000 66baf803 b00a ee e2fd") + vm.POWER_OFF  # 4,096 lines
        done = run_pyvmm("run", *flat(tmp_path, code), timeout=PATIENCE)
        assert (done.returncode, done.stdout) == (0, b"\n" * 4096)
    finally:
        os.close(reader)


def test_a_reader_that_comes_back_finds_whole_lines(tmp_path: Path) -> None:
    from pyvmm.cli.jsonlog import JsonLog

    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    log = JsonLog(str(tmp_path / "fifo"))
    start = time.monotonic()
    for number in range(50):
        log.tell("run", boot=number, text="x" * 6000)
    assert time.monotonic() - start < 20, "only the first that finds no room waits"
    first = os.read(reader, 1 << 20)
    log.tell("end", status=0)
    log.close()
    os.set_blocking(reader, True)
    second = b""
    while more := os.read(reader, 1 << 20):
        second += more
    os.close(reader)
    lines = (first + second).split(b"\n")
    assert [json.loads(line)["boot"] for line in lines[:5]] == [0, 1, 2, 3, 4]
    assert json.loads(lines[-2])["event"] == "end"


def test_an_error_is_the_last_line(tmp_path: Path) -> None:
    done = run_pyvmm("run", "hello", "-drive", "file=/nowhere/disk", "--json-log", str(tmp_path / "log"))
    assert done.returncode == 2
    start, error = events(tmp_path / "log")
    assert (start["event"], error["event"]) == ("start", "error")
    assert f"pyvmm: {error['message']}\n" == done.stderr.decode()


@pytest.mark.parametrize("path", ["/nowhere/log", "/", "fifo"])
def test_a_file_that_cannot_be_written(tmp_path: Path, path: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    name = str(tmp_path / "fifo") if path == "fifo" else path
    done = run_pyvmm("run", "hello", "--json-log", name)
    assert done.returncode == 2
    assert done.stderr.decode().startswith(f"pyvmm: --json-log {name}: ")
    assert len(done.stderr.splitlines()) == 1


def test_nobody_pays_who_does_not_ask() -> None:
    program = "import sys; b = set(sys.modules); import pyvmm.cli.run; assert not {'json', 'pyvmm.cli.jsonlog'} & (set(sys.modules) - b)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_lines_from_many_threads_stay_whole(tmp_path: Path) -> None:
    from pyvmm.cli.jsonlog import JsonLog

    log = JsonLog(str(tmp_path / "log"))
    threads = [threading.Thread(target=lambda n=n: [log.tell("run", text=str(n) * 6000) for _ in range(20)]) for n in range(4)]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert len([json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]) == 80
