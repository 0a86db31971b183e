"""A pytest plugin: several hosts run one list of tests between them, each test on one of them, and write down what has ended.

    python -m pytest -p tests.nested.sharing --share DIR --host N TESTS...

DIR is a directory all of them write to. A test is whose who first makes the directory ``claims/<hash of its name>``. Each host's book
``host-N`` has one line per event: "collected 209", "claimed TEST", "passed TEST", "failed TEST". It is on the disk before the next test
begins, as a host may lock up; ``Share`` is what the one who started the hosts reads afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from hashlib import sha1
from pathlib import Path

import pytest

COLLECTED, CLAIMED, PASSED, FAILED = "collected", "claimed", "passed", "failed"


class Share:
    """The directory, and the book of one of the hosts.

    Args:
        directory: shared by all hosts; made when it is not there.
        host: a number.
    """

    def __init__(self, directory: Path, host: int) -> None:
        self.claims = directory / "claims"
        self.book = directory / f"host-{host}"
        self.claims.mkdir(parents=True, exist_ok=True)

    def note(self, event: str, what: str) -> None:
        """Adds a line to the book."""
        with self.book.open("a") as file:
            file.write(f"{event} {what}\n")
            file.flush()
            os.fsync(file.fileno())

    def claim(self, test: str) -> bool:
        """Whether the test is this host's."""
        try:
            self._place(test).mkdir()
        except FileExistsError:
            return False
        self.note(CLAIMED, test)
        return True

    def give_back(self) -> list[str]:
        """Lets somebody run the tests this host has claimed and not ended; returns them, the one it was cut off in first."""
        ended = {*self.lines(PASSED), *self.lines(FAILED)}
        cut_off = [test for test in dict.fromkeys(self.lines(CLAIMED)) if test not in ended and self._place(test).exists()]
        for test in cut_off:
            self._place(test).rmdir()
        return cut_off

    def lines(self, event: str) -> list[str]:
        """What was noted for an event, in order."""
        text = self.book.read_text() if self.book.exists() else ""
        return [what for first, _, what in (line.partition(" ") for line in text.splitlines()) if first == event]

    def _place(self, test: str) -> Path:
        return self.claims / sha1(test.encode()).hexdigest()


_share = pytest.StashKey[Share]()
_failed = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--share", type=Path, required=True, help="directory by which several hosts share the tests")
    parser.addoption("--host", type=int, required=True, help="number of this one")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_share] = Share(config.getoption("--share"), config.getoption("--host"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool:
    """pytest's own loop over the tests that are ours. The next one is claimed ahead, as fixtures live until a test without them comes."""
    if session.testsfailed:
        raise session.Interrupted("errors during collection")
    share = session.config.stash[_share]
    share.note(COLLECTED, str(len(session.items)))
    ours: Iterator[pytest.Item] = (item for item in session.items if share.claim(item.nodeid))
    item = next(ours, None)
    while item is not None:
        following = next(ours, None)
        session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        share.note(FAILED if item.stash.get(_failed, False) else PASSED, item.nodeid)
        item = following
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[_failed] = True
    return report
