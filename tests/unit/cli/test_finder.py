"""The quick finder: takes what importlib would take, and leaves everything else to it."""

from __future__ import annotations

import importlib
import os
import py_compile
import subprocess
import sys
from importlib.util import cache_from_source, module_from_spec
from pathlib import Path

import pytest

from pyvmm.cli.finder import Finder

NAME = "pyvmm.example"


def source(folder: Path, text: str = "answer = 42\n", compiled: bool = True, **options: object) -> Path:
    path = folder / "example.py"
    path.write_text(text)
    if compiled:
        py_compile.compile(str(path), doraise=True, **options)  # type: ignore[arg-type]
    return path


def test_takes_a_compiled_module(tmp_path: Path) -> None:
    path = source(tmp_path)
    spec = Finder.find_spec(NAME, [str(tmp_path)])
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (module.answer, module.__name__, module.__package__) == (42, NAME, "pyvmm")
    assert (module.__file__, module.__cached__) == (str(path), cache_from_source(str(path)))


def test_a_reload_sees_what_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = source(tmp_path)
    spec = Finder.find_spec(NAME, [str(tmp_path)])
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    path.write_text("answer = 'another'\n")
    spec.loader.exec_module(module)
    assert module.answer == "another"


def test_leaves_the_unusual_to_importlib(tmp_path: Path) -> None:
    folder = [str(tmp_path)]
    source(tmp_path, compiled=False)
    assert Finder.find_spec(NAME, folder) is None, "not compiled"
    path = source(tmp_path, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
    assert Finder.find_spec(NAME, folder) is None, "compiled by another rule"
    source(tmp_path)
    assert Finder.find_spec(NAME, folder) is not None
    assert Finder.find_spec("other.example", folder) is None, "not ours"
    assert Finder.find_spec("pyvmm", None) is None, "the package itself"
    assert Finder.find_spec("pyvmm.missing", folder) is None
    compiled = Path(cache_from_source(str(path)))
    whole = compiled.read_bytes()
    for broken in (b"", whole[:10], b"\0\0\0\0" + whole[4:]):
        compiled.write_bytes(broken)
        assert Finder.find_spec(NAME, folder) is None, "of another Python, or cut off"
    compiled.write_bytes(whole)
    now = os.stat(path)
    os.utime(path, (now.st_atime, now.st_mtime + 5))
    assert Finder.find_spec(NAME, folder) is None, "changed since"
    os.utime(path, (now.st_atime, now.st_mtime))
    path.write_text(path.read_text() + "#\n")
    os.utime(path, (now.st_atime, now.st_mtime))
    assert Finder.find_spec(NAME, folder) is None, "changed within a second"
    path.unlink()
    assert Finder.find_spec(NAME, folder) is None, "gone"


@pytest.mark.parametrize(("options", "used"), [((), True), (("-O",), False)])
def test_the_command_uses_it(options: tuple[str, ...], used: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        f"import os, sys; sys.path[:0] = {sys.path!r}; sys.argv[1:] = ['version']\n"
        "os._exit = lambda code: print(code, 'pyvmm.cli.finder' in str(sys.meta_path[0]))\n"
        "from pyvmm.cli import entry; entry()"
    )
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)
    done = subprocess.run([sys.executable, *options, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[1:] == [f"0 {used}"], done.stderr


def test_importlib_itself_is_untouched() -> None:
    assert not any("pyvmm" in str(finder) for finder in sys.meta_path)
    assert importlib.import_module("pyvmm.status").__spec__ is not None
