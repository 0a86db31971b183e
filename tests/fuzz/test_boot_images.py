"""Mutated guest images: a plan that holds its promises, or one clear line; never anything else.

Fixed seeds, so a failure comes back: each test names format and seed. ``PYVMM_FUZZ_IMAGES=10000`` sets the number of
mutations per format (10,000 take about half a minute in all); the default is a fast sample of the same sequence.
"""

from __future__ import annotations

import os
import random

import pytest

from pyvmm.boot import detect
from pyvmm.boot.image import Image
from pyvmm.errors import ConfigError, ImageError
from pyvmm.layout import GIB, MIB
from tests.support import images

ROUNDS = int(os.environ.get("PYVMM_FUZZ_IMAGES", "400"))

SEEDS = {
    "flat16": images.boot_sector(),
    "flat32": images.HLT,
    "flat64": images.HLT,
    "elf32": images.elf(32, [(MIB, images.HLT, 64), (2 * MIB, b"data", 0x1000)], entry=MIB),
    "elf64": images.elf(64, [(MIB, images.HLT, 64), (2 * MIB, b"data", 0x1000)], entry=MIB, notes=images.note(b"GNU\0", 3, b"id")),
    "multiboot": images.multiboot_raw(),
    "multiboot-elf": images.multiboot_elf(),
    "pvh": images.pvh(),
    "linux": images.bzimage(images.HLT * 4),
    "linux32": images.bzimage(images.HLT * 4, xloadflags=0),
    "vmlinux": images.vmlinux(),
}
FORMATS = {"elf32": "elf", "elf64": "elf", "multiboot-elf": "multiboot"}
MEMORY = (MIB, 2 * MIB, 17 * MIB, 128 * MIB, 3 * GIB, 5 * GIB)
EXTREMES = (
    *(0, 1, 2, 3, 4, 7, 0x7F, 0x80, 0xFF, 0x1000, 0x7FFF, 0xFFFF, 0x10_0000),
    *(0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 1 << 63, (1 << 64) - 1),
)
OWN_BYTES_MAX = 512 << 10  # what a plan allocates itself: tables, page tables, strings


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to four changes: fields at their extremes, flipped bits, cuts, growth, moved pieces."""
    image = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        kind = rng.random()
        at = rng.randrange(len(image)) if image else 0
        if kind < 0.45 and image:
            size = rng.choice((1, 2, 4, 4, 8))
            at -= at % size if rng.random() < 0.8 else 0
            value = rng.choice(EXTREMES) if rng.random() < 0.6 else rng.choice(EXTREMES) + rng.randint(-64, 64)
            part = (value & (1 << 8 * size) - 1).to_bytes(size, "little")[: len(image) - at]
            image[at : at + len(part)] = part
        elif kind < 0.75 and image:
            image[at] ^= 1 << rng.randrange(8)
        elif kind < 0.82:
            del image[at:]
        elif kind < 0.88:
            image += bytes(rng.randrange(4096))
        elif kind < 0.94:
            other = rng.randrange(len(image) + 1)
            image[other:other] = image[at : at + 64]
        else:
            image[at : at + 8] = rng.randbytes(min(8, len(image) - at))
    return bytes(image) or b"\0"


def attempt(image: Image, config, fmt: str) -> bool:
    """Plans an image; True when there is a plan. Anything but a good plan or one clear line fails the test."""
    try:
        chosen, rule = detect.recognise(image, fmt)
        made = detect.plan_image(image, config, chosen, rule)
    except (ImageError, ConfigError) as error:
        assert "\n" not in str(error)
        assert len(str(error)) > 10
        return False
    images.check_plan(made, config.memory)
    assert sum(len(data) for _, data in made.writes if isinstance(data, bytes)) < OWN_BYTES_MAX
    return True


@pytest.mark.parametrize("name", SEEDS)
def test_mutated_images_are_planned_or_refused(name, tmp_path):
    initrd = tmp_path / "initrd"
    initrd.write_bytes(bytes(5000))
    fmt = FORMATS.get(name, name)
    takes_initrd = fmt in ("multiboot", "pvh", "linux", "linux32", "vmlinux")
    planned = 0
    for seed in range(ROUNDS):
        rng = random.Random(f"{name} {seed}")
        data = mutate(SEEDS[name], rng)
        options: dict[str, object] = {"cmdline": "a" * rng.choice((0, 9, 300))}
        if takes_initrd and rng.random() < 0.3:
            options["initrd"] = str(initrd)
        if fmt.startswith("flat") and rng.random() < 0.5:
            options["address"] = rng.choice((0, 0x400, 0x7000, 0x7C00, 0x9_F000, 0xE_0000, MIB, rng.randrange(1 << 32)))
        asked = fmt if rng.random() < 0.5 else "auto"
        config = images.config("image", memory=rng.choice(MEMORY), smp=rng.choice((1, 4)), acpi=rng.random() < 0.2, **options)
        try:
            planned += attempt(Image("image", data), config, asked)
        except Exception as error:
            raise AssertionError(f"{name}, seed {seed}, --format {asked}, {config.memory >> 20} MiB: {error!r}") from error
    assert planned > ROUNDS // 20, "the mutations are too wild to test anything behind the first check"
    assert planned < ROUNDS, "the mutations are too tame"
