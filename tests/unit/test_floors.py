"""docs/architecture.md, floors: a room imports from its own floor and those below, never upward."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import pyvmm

ROOT = Path(pyvmm.__file__).parent
GROUND, KERNEL, MACHINE_SIDE, DEVICES, LOOP, MACHINE, OBSERVE, CLI = range(8)
# room (longest prefix wins) -> floor
FLOORS = {
    "errors": GROUND, "record": GROUND, "layout": GROUND, "config": GROUND, "events": GROUND, "csignal": GROUND, "": GROUND,
    "threads": GROUND, "kvm.native": GROUND, "net": GROUND,
    "kvm": KERNEL,
    "memory": MACHINE_SIDE, "bus": MACHINE_SIDE, "irq": MACHINE_SIDE, "ioloop": MACHINE_SIDE, "iothread": MACHINE_SIDE,
    "workers": MACHINE_SIDE, "scatter": MACHINE_SIDE,
    "backends": DEVICES, "devices": DEVICES, "boot": DEVICES, "catalogue": DEVICES,
    "runloop": LOOP, "exits": LOOP, "cpuid": LOOP, "cpu_models": LOOP,
    "machine": MACHINE, "poweron": MACHINE, "board": MACHINE, "cards": MACHINE, "nics": MACHINE, "coalesce": MACHINE,
    "snapshot": MACHINE, "pflash": MACHINE,
    "observe": OBSERVE, "hostcheck": OBSERVE, "probes": OBSERVE,
    "sandbox": OBSERVE,
    "status": CLI, "cli": CLI, "__main__": CLI, "testing": CLI,
}  # fmt: skip
# Rooms that must run without /dev/kvm: they know no descriptor.
NO_KVM = (
    "devices", "bus", "memory", "irq", "ioloop", "iothread", "workers", "boot", "backends", "errors", "record", "layout", "config",
    "events", "catalogue", "net", "scatter",
)  # fmt: skip


def _room(module: str) -> str:
    parts = module.split(".")[1:]
    if parts[:2] == ["kvm", "native"]:  # C types and calls of any library: no descriptor, though it lives with its main user
        return "kvm.native"
    return parts[0] if parts else ""


def _imports(path: Path) -> list[str]:
    """Modules of pyvmm imported when the program runs; those under ``if TYPE_CHECKING:`` are for type checkers."""
    found: list[str] = []

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.Import):
            found.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.extend(f"{node.module}.{alias.name}" if node.module in ("pyvmm", "pyvmm.kvm") else node.module for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return [name for name in found if name.split(".")[0] == "pyvmm"]


def _modules() -> list[Path]:
    return [path for path in sorted(ROOT.rglob("*.py")) if "guests" not in path.relative_to(ROOT).parts]


def test_every_room_has_a_floor() -> None:
    rooms = {path.relative_to(ROOT).with_suffix("").parts[0] for path in _modules()} - {"__init__"}
    assert rooms <= set(FLOORS), f"give these a floor in docs/architecture.md and here: {rooms - set(FLOORS)}"


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_import_goes_upward(path: Path) -> None:
    room = path.relative_to(ROOT).with_suffix("").parts[0].replace("__init__", "")
    for module in _imports(path):
        target = _room(module)
        if module == "pyvmm.__version__" or target == room:
            continue
        assert FLOORS[target] <= FLOORS[room], f"{path.name} imports {module}, which is above it"
        if room in NO_KVM:
            assert target != "kvm", f"{path.name} must not know KVM"


def test_only_allowed_packages_are_imported() -> None:
    import sys

    for path in _modules():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in names:
                top = name.split(".")[0]
                allowed = ("pyvmm", "construct", "capstone", *(["pytest"] if path.parent.name == "testing" else []))
                assert top in sys.stdlib_module_names or top in allowed, f"{path}: {name}"


def test_files_stay_readable() -> None:
    long = {str(path.relative_to(ROOT)): count for path in _modules() if (count := len(path.read_text().splitlines())) > 450}
    assert not long, f"over 450 lines; is each still one concept? {long}"


def test_every_package_is_installed() -> None:
    """pyproject.toml lists them by hand; one that is forgotten is missing only where pyvmm was installed."""
    import tomllib

    listed = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {".".join(("pyvmm", *path.parent.relative_to(ROOT).parts)) for path in _modules()}
    assert there == {each for each in listed if each != "pyvmm.guests"}
