"""Names of events: made from every register table there is, and chosen by patterns."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import pytest

import pyvmm.devices
from pyvmm.devices.device import Register
from pyvmm.errors import ConfigError
from pyvmm.kvm import uapi
from pyvmm.observe.trace import events
from pyvmm.observe.trace.events import Chosen


def _tables() -> list[str]:
    found = []
    for module in pkgutil.walk_packages(pyvmm.devices.__path__, "pyvmm.devices."):
        if module.name.endswith("regs"):
            content = vars(importlib.import_module(module.name))
            found += [
                f"{module.name}:{name}"
                for name, value in content.items()
                if isinstance(value, tuple) and value and all(isinstance(each, Register) for each in value)
            ]
    return found


def test_every_register_table_has_events() -> None:
    assert set(_tables()) == set(events.PREFIXES)


def test_every_exit_reason_has_one() -> None:
    known = events.catalogue()
    assert {f"exit_{name.removeprefix('KVM_EXIT_').lower()}" for name in uapi.EXIT_NAMES.values()} <= known.keys()
    assert events.exit_event("KVM_EXIT_? (99)") == "exit_unknown_99"


@pytest.mark.parametrize("prefix", ["serial_", "virtio_", "pci_", "e1000_", "irq_", "exit_"])
def test_the_issue_s_families(prefix: str) -> None:
    assert any(name.startswith(prefix) for name in events.catalogue())


def test_names_are_words_and_say_something() -> None:
    for name, text in events.catalogue().items():
        assert name.replace("_", "").isalnum()
        assert name == name.lower()
        assert text.strip()
        assert "__" not in name


def test_each_hook_is_emitted_somewhere() -> None:
    source = "".join(path.read_text() for path in Path(events.__file__).parent.glob("*.py") if path.name != "events.py")
    assert [name for name in events.HOOKS if f'"{name}"' not in source] == []


@pytest.mark.parametrize(
    ("patterns", "within", "without"),
    [
        (["serial_lsr_read"], ["serial_lsr_read"], ["serial_thr_write"]),
        (["serial_*,irq_line"], ["serial_thr_write", "irq_line"], ["irq_msi"]),
        (["serial_*", "-serial_lsr_*"], ["serial_thr_write"], ["serial_lsr_read"]),
        (["-serial_*"], ["irq_msi", "exit_io"], ["serial_thr_write"]),
        (["*"], ["irq_msi"], []),
        (["e1000_mta_write"], ["e1000_mta_write"], []),  # of an array
    ],
)
def test_patterns(patterns: list[str], within: list[str], without: list[str]) -> None:
    chosen = Chosen(patterns)
    assert all(name in chosen for name in within)
    assert not any(name in chosen for name in without)


@pytest.mark.parametrize("pattern", ["nothing_*", "", ",", "serial_*,nothing", "serial_thr_read", "[", ",".join(["serial_*"] * 65)])
def test_a_pattern_that_matches_nothing_is_a_mistake(pattern: str) -> None:
    with pytest.raises(ConfigError, match="--trace.*pyvmm list"):
        Chosen([pattern])
