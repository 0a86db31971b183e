"""Debian's kernels (and other packages) for the tests: downloaded and unpacked, never installed.

Everything lands in `$PYVMM_CACHE` or `~/.cache/pyvmm`. What is there is used as it is, without asking apt, so
that a test run is quick, works offline and does not change its kernel from one day to the next; to get newer
packages, run `python tests/support/debian.py --update` or empty the cache.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

if __package__ in (None, ""):  # run as a program: make `tests` importable, as pytest does
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.bzimage import BzImageError, extract_vmlinux

Flavour = Literal["generic", "cloud"]
# The packages that depend on "the current kernel", by what this project calls the kernel.
_META: dict[Flavour, str] = {"generic": "linux-image-amd64", "cloud": "linux-image-cloud-amd64"}
_QUERY_TIMEOUT = 60
_DOWNLOAD_TIMEOUT = 900
_UNPACK_TIMEOUT = 300


class DebianError(Exception):
    """Something is missing; the message is one line and says what to do about it."""


@dataclass(frozen=True)
class Wanted:
    """A package by name, or (with `through`) the dependency of that package whose name matches `name`."""

    name: str
    through: Wanted | None = None


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel package."""

    release: str  # as `uname -r` would say
    vmlinuz: Path
    modules: Path  # lib/modules/<release>

    def vmlinux(self) -> Path:
        """The ELF kernel, extracted on first use and kept beside the bzImage."""
        elf = self.vmlinuz.with_name(self.vmlinuz.name.replace("vmlinuz", "vmlinux"))
        if not elf.exists():
            try:
                data = extract_vmlinux(self.vmlinuz.read_bytes())
            except BzImageError as error:
                raise DebianError(f"{self.vmlinuz.name}: {error}") from error
            with tempfile.NamedTemporaryFile(dir=elf.parent, delete=False) as part:
                part.write(data)
            # Renamed last: another process must never see half a kernel.
            os.replace(part.name, elf)
        return elf


def cache_dir() -> Path:
    chosen = os.environ.get("PYVMM_CACHE")
    path = Path(chosen) if chosen else Path.home() / ".cache" / "pyvmm"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DebianError(f"{path}: {error.strerror}: name another folder by PYVMM_CACHE=DIR") from None
    return path.resolve()


def require(programs: Mapping[str, str]) -> dict[str, str]:
    """The paths of `programs` (program or file -> Debian package), or one error naming all that is missing."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))  # a user's PATH has no mke2fs
    found = {name: shutil.which(name, path=path) or (name if Path(name).is_file() else "") for name in programs}
    missing = sorted({programs[name] for name, path in found.items() if not path})
    if missing:
        raise DebianError(f"missing: apt-get install --no-install-recommends {' '.join(missing)}")
    return found


def kernel(flavour: Flavour, *, update: bool = False) -> Kernel:
    root = tree([Wanted(r"linux-image-\d.*-amd64", through=Wanted(_META[flavour]))], update=update)
    images = sorted(root.glob("boot/vmlinuz-*"))
    if len(images) != 1:
        raise DebianError(f"{root}: expected one boot/vmlinuz-*, found {len(images)}; empty the cache")
    release = images[0].name.removeprefix("vmlinuz-")
    for modules in (root / "lib/modules" / release, root / "usr/lib/modules" / release):
        if modules.is_dir():
            return Kernel(release, images[0], modules)
    raise DebianError(f"{root}: no modules for {release}; empty the cache")


def tree(wanted: Sequence[Wanted], *, update: bool = False) -> Path:
    """A directory with all the `wanted` packages unpacked over one another."""
    key = hashlib.sha256(repr(list(wanted)).encode()).hexdigest()[:12]
    store = cache_dir() / "debian"
    store.mkdir(exist_ok=True)
    current = store / f"wanted-{key}"  # -> the directory this request led to last time
    if current.exists() and not update:
        return current.resolve()
    with _lock(store / "lock"):
        if current.exists() and not update:  # somebody else was quicker
            return current.resolve()
        debs = _package_files([_resolve(each) for each in wanted])
        versions = hashlib.sha256("\n".join(debs).encode()).hexdigest()[:12]
        root = store / f"{next(iter(debs)).removesuffix('.deb')}-{versions}"
        if not root.exists():
            with tempfile.TemporaryDirectory(dir=store, prefix="unpack-") as scratch:
                staged = Path(scratch) / "root"
                for deb, package in debs.items():
                    _unpack(_download(store, deb, package), staged)
                os.replace(staged, root)
            for deb in debs:  # the unpacked form is all that is used from here on
                (store / deb).unlink(missing_ok=True)
        pointer = store / f"new-{key}"
        pointer.unlink(missing_ok=True)
        pointer.symlink_to(root.name)
        os.replace(pointer, current)
    return root


def _resolve(wanted: Wanted) -> str:
    if wanted.through is None:
        return wanted.name
    parent = _resolve(wanted.through)
    listing = _apt("apt-cache", "depends", "--important", parent)
    for line in listing.splitlines():
        match = re.match(r"[ |]*(?:Pre)?Depends: (\S+)$", line)
        if match and re.fullmatch(wanted.name, match[1]):
            return match[1]
    raise DebianError(f"{parent} does not depend on any {wanted.name}: is this Debian? (run: apt-get update)")


def _package_files(packages: Sequence[str]) -> dict[str, str]:
    """The .deb file name (it holds the version) of each package, as apt would download it."""
    listing = _apt("apt-get", "download", "--print-uris", *packages)
    # Lines of: 'URI' name_version_arch.deb size hash
    names = [line.split()[1] for line in listing.splitlines() if line.startswith("'")]
    files = {name: name.partition("_")[0] for name in names}
    if sorted(files.values()) != sorted(set(packages)):
        raise DebianError(f"apt knows no download for all of: {' '.join(packages)} (run: apt-get update)")
    return {name: files[name] for name in sorted(files, key=lambda name: packages.index(files[name]))}


def _apt(*command: str) -> str:
    require({command[0]: "apt"})
    environment = {**os.environ, "LC_ALL": "C"}  # its words are parsed
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_QUERY_TIMEOUT, env=environment, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise DebianError(f"{command[0]} gave no answer in {_QUERY_TIMEOUT} s") from error
    if done.returncode != 0:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise DebianError(f"{' '.join(command)}: {last} (run: apt-get update)")
    return done.stdout


def _download(store: Path, deb: str, package: str) -> Path:
    path = store / deb
    if not path.exists():
        # As root, apt would change to its user _apt, who may not write into somebody's cache.
        command = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package]
        try:
            done = subprocess.run(
                command, cwd=store, capture_output=True, text=True, timeout=_DOWNLOAD_TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise DebianError(f"{package}: not downloaded in {_DOWNLOAD_TIMEOUT} s") from error
        if done.returncode != 0 or not path.exists():
            last = (done.stderr.strip() or "no message").splitlines()[-1]
            raise DebianError(f"apt-get download {package}: {last}")
    return path


def _unpack(deb: Path, into: Path) -> None:
    require({"dpkg-deb": "dpkg"})
    command = ["dpkg-deb", "-x", str(deb), str(into)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_UNPACK_TIMEOUT, check=False)
    if done.returncode != 0:
        raise DebianError(f"{deb.name}: {done.stderr.strip()} (delete it and run again)")


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)  # released by the close, even if this process is killed
        yield


def main() -> int:
    parser = argparse.ArgumentParser(description="Download Debian kernels into the cache and say where they are.")
    parser.add_argument("flavour", nargs="*", choices=[[], *_META], help="default: all")
    parser.add_argument("--update", action="store_true", help="ask apt for the current version")
    parser.add_argument("--vmlinux", action="store_true", help="extract the ELF kernel too")
    options = parser.parse_args()
    try:
        for flavour in options.flavour or list(_META):
            found = kernel(flavour, update=options.update)
            print(f"{flavour}: {found.release}\n  vmlinuz {found.vmlinuz}\n  modules {found.modules}")
            if options.vmlinux:
                print(f"  vmlinux {found.vmlinux()}")
    except DebianError as error:
        print(f"debian: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
