"""Guests as tests: the pytest plugin (docs/guests-as-tests.md). pytest loads it by entry point in every session of an environment
that has pyvmm; so nothing else of pyvmm is imported here before a test, or a manifest, asks for a guest."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.testing.factory import Factory
    from pyvmm.testing.vm import Vm

VMS: pytest.StashKey[list[Vm]] = pytest.StashKey()  # on an item: the guests of its test
_MARKER = (
    'guest(name, file=..., needs=..., **options): an image for the guest fixture: guest("name") boots it. `file` is relative to the '
    "test's folder, `needs` says what the KVM must be able to do (pyvmm check), the options are those of `pyvmm run`."
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """--require-kvm and what an ini file may say."""
    group = parser.getgroup("pyvmm", "guests on KVM (pyvmm)")
    group.addoption("--require-kvm", action="store_true", help="fail, rather than skip, what needs /dev/kvm where there is none")
    parser.addini("guest_timeout", "seconds that a guest may run when its test does not say (default 60)", default="60")
    parser.addini("guest_manifests", "glob patterns of manifests whose guests are tests (unittests.cfg, catalogue.cfg)", "args", [])


def pytest_configure(config: pytest.Config) -> None:
    """Tells of the marker."""
    config.addinivalue_line("markers", _MARKER)


@pytest.fixture
def guest(request: pytest.FixtureRequest) -> Iterator[Factory]:
    """Starts guests: ``vm = guest("hello", smp=2)``. They end with the test. Skips where there is no KVM."""
    from pyvmm.testing.factory import Factory, require_kvm

    require_kvm(request.config)
    factory = Factory(request)
    request.node.stash[VMS] = factory.vms
    yield factory
    factory.close()


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> Any:
    """Manifests that the ini file names, and any ``.cfg`` manifest on the command line."""
    if file_path.suffix != ".cfg":
        return None
    named = any(file_path.match(pattern) for pattern in parent.config.getini("guest_manifests"))
    if not named and not parent.session.isinitpath(file_path):
        return None
    from pyvmm.testing.manifest import Manifest, is_manifest

    return Manifest.from_parent(parent, path=file_path) if named or is_manifest(file_path) else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Shows the guests of a test that failed."""
    report = yield
    vms = item.stash.get(VMS, None)
    if vms and report.failed:
        from pyvmm.testing.factory import show

        show(report, vms)
    return report
