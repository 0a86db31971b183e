"""Makes the CD image that host C boots: a kernel, and an initramfs with Debian's Python and the job.

Bochs can boot neither a kernel nor anything faster than a CD, and there is no way to share files with it: all that
the job needs is in the image. What does not change from run to run (Python, the kernel modules) is cached.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support import cpio, initramfs
from tests.support.debian import DebianError, Kernel, Wanted, cache_dir, require, tree

_ISOLINUX = "/usr/lib/ISOLINUX/isolinux.bin"
_LDLINUX = "/usr/lib/syslinux/modules/bios/ldlinux.c32"
PACKAGES = {
    "xorriso": "xorriso",
    "busybox": initramfs.BUSYBOX_PACKAGE,
    _ISOLINUX: "isolinux",
    _LDLINUX: "syslinux-common",
}
_INIT = Path(__file__).with_name("intel_init.sh")
_LAUNCH = Path(__file__).with_name("intel_launch.py")
_MODULES = ("kvm", "kvm_intel")
_TIMEOUT = 120

_MINIMAL = Wanted(r"python3\.\d+-minimal", through=Wanted("python3-minimal"))
_PYTHON = [
    _MINIMAL,
    Wanted(r"libpython3\.\d+-minimal", through=_MINIMAL),
    Wanted(r"libpython3\.\d+-stdlib", through=Wanted("libpython3-stdlib")),
    Wanted("libc6"),
    Wanted("libexpat1"),
    Wanted("libffi8"),
    Wanted("zlib1g"),
]
_LIBRARIES = ("libc.so.6", "libm.so.6", "libz.so.1", "libexpat.so.1", "libffi.so.8")
# Extension modules that need no further library. (hashlib, for one, does well without OpenSSL's.)
_EXTENSIONS = (
    *("_asyncio", "_contextvars", "_ctypes", "_decimal", "_json", "_lsprof", "_multiprocessing", "_posixshmem"),
    *("_queue", "_typing", "mmap", "resource", "termios"),
)
# Large parts of the standard library that no test of a VMM imports.
_UNUSED = ("lib2to3", "pydoc_data", "ensurepip", "idlelib", "distutils", "tkinter", "turtledemo", "test", "venv")


@dataclass(frozen=True)
class Addition:
    """A file or directory to put into the image."""

    source: Path
    target: str

    @classmethod
    def parse(cls, text: str) -> Addition:
        """SRC or SRC:DST; without DST, the last part of SRC's name, at the root."""
        source, _, target = text.partition(":")
        path = Path(source)
        if not path.exists():
            raise DebianError(f"--add: there is no {source}")
        return cls(path, target or "/" + path.resolve().name)


def iso(kernel: Kernel, line: str, initrd: bytes, scratch: Path) -> Path:
    """The CD image, in `scratch`."""
    programs = require(PACKAGES)
    root = scratch / "cd"
    root.mkdir()
    shutil.copy(_ISOLINUX, root / "isolinux.bin")
    shutil.copy(_LDLINUX, root / "ldlinux.c32")
    shutil.copy(kernel.vmlinuz, root / "vmlinuz")
    (root / "initrd").write_bytes(initrd)
    config = f"default linux\nprompt 0\nlabel linux\nkernel /vmlinuz\ninitrd /initrd\nappend {line}\n"
    (root / "isolinux.cfg").write_text(config)
    image = scratch / "cd.iso"
    _run(
        [programs["xorriso"], "-as", "mkisofs", "-quiet", "-o", str(image), "-b", "isolinux.bin", "-c", "boot.cat"]
        + ["-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", str(root)]
    )
    shutil.rmtree(root)  # some tens of megabytes that are not needed twice
    return image


def initrd(kernel: Kernel, job: bytes, additions: Sequence[Addition]) -> bytes:
    """Three archives, one after the other: the cached one, what comes from this checkout, busybox with /init."""
    python = tree(_PYTHON)
    base = _cached_base(kernel, python)
    start = initramfs.build(_INIT.read_text(), {"job.json": job, "launch.py": _LAUNCH})
    return base + cpio.archive(_additions(python, additions)) + start


def _additions(python: Path, additions: Sequence[Addition]) -> list[cpio.Entry]:
    entries: list[cpio.Entry] = []
    with tempfile.TemporaryDirectory(prefix="pyvmm-intel-") as name:
        for number, addition in enumerate(additions):
            if addition.source.is_file():
                entries.append(initramfs.from_path(addition.target, addition.source))
                continue
            staged = Path(name) / str(number)
            ignore = shutil.ignore_patterns("__pycache__", ".git")
            shutil.copytree(addition.source, staged, ignore=ignore)
            _compile(python, staged, addition.target, sourceless=False)
            entries += initramfs.from_directory(addition.target, staged)
    return entries


def _cached_base(kernel: Kernel, python: Path) -> bytes:
    # This file is part of the key: what it puts in may have changed since.
    key = hashlib.sha256(f"{kernel.release} {kernel.modules} {python}".encode() + Path(__file__).read_bytes())
    store = cache_dir() / "nested"
    store.mkdir(exist_ok=True)
    cached = store / f"intel-base-{key.hexdigest()[:12]}.cpio"
    if not cached.exists():
        for old in store.glob("intel-base-*.cpio"):
            old.unlink(missing_ok=True)
        data = cpio.archive([*initramfs.modules(kernel, _MODULES, signed=False), *_python_entries(python)])
        with tempfile.NamedTemporaryFile(dir=store, delete=False) as part:
            part.write(data)
        os.replace(part.name, cached)
    return cached.read_bytes()


def _python_entries(python: Path) -> list[cpio.Entry]:
    interpreter = _interpreter(python)
    version = interpreter.name  # python3.11
    library = python / "usr/lib" / version
    entries = [initramfs.from_path("usr/bin/python3", interpreter)]
    for name in _LIBRARIES:
        entries.append(initramfs.from_path(f"lib/x86_64-linux-gnu/{name}", _library(python, name)))
    loader = "ld-linux-x86-64.so.2"  # where every program says it is
    entries.append(initramfs.from_path(f"lib64/{loader}", _library(python, loader)))
    for name in _EXTENSIONS:
        for path in (library / "lib-dynload").glob(f"{name}.*.so"):
            entries.append(initramfs.from_path(f"usr/lib/{version}/lib-dynload/{path.name}", path))
    with tempfile.TemporaryDirectory(prefix="pyvmm-intel-") as name:
        staged = Path(name) / version
        shutil.copytree(
            library, staged, ignore=shutil.ignore_patterns("__pycache__", "lib-dynload", "config-*", *_UNUSED)
        )
        _compile(python, staged, f"/usr/lib/{version}", sourceless=True)
        # Bytecode in the place of the source: half the image, and no comparing of the two at each import.
        entries += [
            entry for entry in initramfs.from_directory(f"usr/lib/{version}", staged) if entry.name.endswith(".pyc")
        ]
    return entries


def _compile(python: Path, directory: Path, target: str, *, sourceless: bool) -> None:
    """Bytecode for all of `directory`, by the interpreter it is for; tracebacks will name files under `target`."""
    command = [str(_interpreter(python)), "-S", "-m", "compileall", "-q", "-s", str(directory), "-p", target]
    command += ["--invalidation-mode", "unchecked-hash", *(["-b"] if sourceless else []), str(directory)]
    _run(command)


def _interpreter(python: Path) -> Path:
    found = list(python.glob("usr/bin/python3.*"))
    if len(found) != 1:
        raise DebianError(f"{python}: expected one interpreter, found {len(found)}; empty the cache")
    return found[0]


def _library(python: Path, name: str) -> Path:
    """The file of a library, through its symbolic links (which may be absolute, hence not simply opened)."""
    for folder in ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"):
        path = python / folder / name
        if path.is_symlink():
            path = path.with_name(Path(os.readlink(path)).name)
        if path.exists():
            return path
    raise DebianError(f"{python}: no {name}; empty the cache")


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise DebianError(f"{Path(command[0]).name} failed: {last}")
