"""Messages: one line, whatever is in them; never a hang, never an exception."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pyvmm.backends.stderr import one_line, say, say_lines


@contextmanager
def stderr(fd: int) -> Iterator[None]:
    saved = os.dup(2)
    os.dup2(fd, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def said(text: str) -> bytes:
    read, write = os.pipe()
    with stderr(write):
        say(text)
    os.close(write)
    data = os.read(read, 1 << 16)
    os.close(read)
    return data


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain", b"plain\n"),
        ("\u00fc\u2713", "\u00fc\u2713\n".encode()),
        ("a\nb\tc\x1b\x00", b"a\\nb\\tc\\x1b\\x00\n"),
        ("\udcff\ud800", b"\\udcff\\ud800\n"),
        ("\u2028\x85", b"\\u2028\\x85\n"),
        ("", b"\n"),
    ],
)
def test_one_line(text: str, line: bytes) -> None:
    assert said(text) == line


def test_long_text_is_whole() -> None:
    assert said("x" * 60_000) == b"x" * 60_000 + b"\n"


def test_printable_text_is_left_alone() -> None:
    text = "it's 'quoted' and \\ stays"
    assert one_line(text) is text


def test_a_closed_stderr() -> None:
    read, write = os.pipe()
    os.close(read)
    with stderr(write):
        say("nobody")
    os.close(write)
    saved = os.dup(2)
    os.close(2)
    try:
        say("nobody")
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def test_a_full_pipe_is_given_up_after_a_second() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        while True:
            os.write(write, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(write, True)
    start = time.monotonic()
    with stderr(write):
        say_lines("lost\n")
    assert time.monotonic() - start < 30
    os.close(read)
    os.close(write)
