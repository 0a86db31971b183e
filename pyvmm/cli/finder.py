"""Finds pyvmm's own compiled modules where they must be, for a quick start.

A start imports some sixty modules, and importlib's search for each (five kinds of file in every folder, three other finders first)
takes half of what the import takes. Here it is one read and one stat. Whatever is unusual (not compiled yet, changed since, a package,
-O, PYTHONPYCACHEPREFIX) is left to importlib, which comes next. Only the command uses this (``entry``); who imports pyvmm does not.
"""

from __future__ import annotations

import os
import sys
from _frozen_importlib import ModuleSpec  # what importlib.machinery has too, without its import
from _frozen_importlib_external import MAGIC_NUMBER, SourceFileLoader
from marshal import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType, ModuleType

_HEAD = MAGIC_NUMBER + bytes(4)  # of a .pyc that goes by its source's time and size (PEP 552: flags 0)
_LIMIT = 1 << 16  # a read that takes any of ours whole, and whose buffer the C library need not map
_SUFFIX = f".{sys.implementation.cache_tag}.pyc"


class _Loader(SourceFileLoader):
    """importlib's own, but the code is there already."""

    def __init__(self, name: str, path: str, code: CodeType) -> None:
        super().__init__(name, path)
        self._code: CodeType | None = code

    def get_code(self, fullname: str) -> CodeType | None:
        code, self._code = self._code, None  # once: a reload reads anew
        return code or super().get_code(fullname)


class Finder:
    """A meta path finder (PEP 451) for modules of pyvmm."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if path is None or not name.startswith("pyvmm."):
            return None
        folder, leaf = path[0], name.rpartition(".")[2]
        source, cached = f"{folder}/{leaf}.py", f"{folder}/__pycache__/{leaf}{_SUFFIX}"
        try:
            file = os.open(cached, os.O_RDONLY | os.O_CLOEXEC)
            try:
                data = os.read(file, _LIMIT)
            finally:
                os.close(file)
            now = os.stat(source)
        except OSError:
            return None
        # The low 32 bits of time and size, as importlib writes and compares them
        its = (int(now.st_mtime) & 0xFFFF_FFFF).to_bytes(4, "little") + (now.st_size & 0xFFFF_FFFF).to_bytes(4, "little")
        if data[:8] != _HEAD or data[8:16] != its or len(data) == _LIMIT:
            return None
        spec = ModuleSpec(name, _Loader(name, source, loads(memoryview(data)[16:])), origin=source)
        spec.has_location = True  # the module gets a __file__
        spec.cached = cached
        return spec


def install() -> None:
    """Has it asked before all others; not where modules or their compiled forms are in unusual places."""
    package = sys.modules["pyvmm"].__spec__
    if package is not None and type(package.loader) is SourceFileLoader and not sys.flags.optimize and sys.pycache_prefix is None:
        sys.meta_path.insert(0, Finder)
