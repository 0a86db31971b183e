"""The AML encoder against encodings worked out from ACPI 6.4, chapters 6.4 and 20, and against iasl."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from pyvmm.boot import acpi, aml


@pytest.mark.parametrize(
    "text, code",
    [
        ("_CRS", b"_CRS"),
        ("PIC", b"PIC_"),
        ("\\_S5", b"\\_S5_"),
        ("\\", b"\\\0"),
        ("^A", b"^A___"),
        ("_SB.PCI0", b"\x2e_SB_PCI0"),
        ("\\_SB.PCI0.ISA", b"\\\x2f\x03_SB_PCI0ISA_"),
    ],
)
def test_names(text, code):
    assert aml.path(text) == code


def test_a_name_segment_has_at_most_four_characters():
    with pytest.raises(ValueError, match="at most 4"):
        aml.path("_SB.SERIAL")


@pytest.mark.parametrize(
    "number, code",
    [
        (0, b"\0"),
        (1, b"\1"),
        (2, b"\x0a\x02"),
        (0xFF, b"\x0a\xff"),
        (0x100, b"\x0b\0\1"),
        (0xFFFF, b"\x0b\xff\xff"),
        (0x1_0000, b"\x0c\0\0\1\0"),
        (1 << 32, b"\x0e\0\0\0\0\1\0\0\0"),
    ],
)
def test_integers_are_as_short_as_can_be(number, code):
    assert aml.integer(number) == code


@pytest.mark.parametrize(
    "body, prefix",
    [(62, b"\x3f"), (63, b"\x41\x04"), (4093, b"\x4f\xff"), (4094, b"\x81\x00\x01"), (0xFFFFC, b"\x8f\xff\xff"), (0xFFFFD, b"\xc1\0\0\1")],
)
def test_package_lengths_count_themselves(body, prefix):
    """PkgLength: one byte up to 63, else 4 bits and 8 more per following byte (20.2.4)."""
    code = aml.length_prefixed(bytes(body))
    assert code[: len(prefix)] == prefix
    assert len(code) == body + len(prefix)
    extra = code[0] >> 6
    length = code[0] & 0x3F if not extra else code[0] & 0xF | int.from_bytes(code[1 : 1 + extra], "little") << 4
    assert length == len(code)


def test_eisa_ids_are_compressed():
    assert aml.eisa_id("PNP0A03") == b"\x0c\x41\xd0\x0a\x03"  # the example of 6.1.5: 0x030AD041


def test_resource_descriptors():
    assert aml.io(0x3F8, 8) == bytes.fromhex("47 01 f803 f803 01 08")
    assert aml.irq(4) == bytes.fromhex("22 1000")
    assert aml.interrupt(16, active_low=True, shared=True) == bytes.fromhex("89 0600 0d 01 10000000")
    assert aml.interrupt(5, level=False) == bytes.fromhex("89 0600 03 01 05000000")
    assert aml.memory32(0xD000_0000, 0x200) == bytes.fromhex("86 0900 01 000000d0 00020000")
    assert aml.resources() == bytes.fromhex("11 05 0a 02 79 00")


TABLE = aml.scope(
    "_SB",
    aml.device(
        "PCI0",
        aml.name("_HID", aml.eisa_id("PNP0A03")),
        aml.name("TEXT", "text"),
        aml.name("BIG", 1 << 40),
        aml.name(
            "_CRS",
            aml.resources(
                aml.bus_numbers(0, 0xFF),
                aml.io_window(0xD00, 0xFFFF),
                aml.memory_window(0xC000_0000, 0xFEBF_FFFF),
                aml.memory_window(1 << 39, (1 << 40) - 1),
                aml.memory32(0xD000_0000, 0x200),
                aml.interrupt(16, active_low=True, shared=True),
            ),
        ),
        aml.name("_PRT", aml.package(*(aml.package(slot << 16 | 0xFFFF, 0, 0, 16 + slot % 4) for slot in range(32)))),
    ),
    aml.method("SUM", 1, aml.store(aml.ARG0, aml.LOCAL0), aml.give_back(aml.LOCAL0)),
    aml.method("ANSW", 0, aml.give_back(42), serialized=True),
)


@pytest.mark.skipif(not shutil.which("iasl"), reason="iasl (acpica-tools) is not installed")
def test_iasl_reads_what_was_meant(tmp_path):
    (tmp_path / "t.dat").write_bytes(acpi.table(b"DSDT", 2, TABLE))
    done = subprocess.run(["iasl", "-d", "t.dat"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "rror" not in done.stdout + done.stderr
    source = " ".join((tmp_path / "t.dsl").read_text().split())
    for text in (
        "Device (PCI0)",
        'EisaId ("PNP0A03")',
        'Name (TEXT, "text")',
        "Name (BIG, 0x0000010000000000)",
        "WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode,",
        "WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,",
        "DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,",
        "QWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,",
        "Memory32Fixed (ReadWrite,",
        "Interrupt (ResourceConsumer, Level, ActiveLow, Shared, ,, )",
        "Method (SUM, 1, NotSerialized)",
        "Method (ANSW, 0, Serialized)",
        "Return (0x2A)",
    ):
        assert text in source, f"{text}\n{source}"
    done = subprocess.run(["iasl", "-oa", "-p", "again", "t.dsl"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "0 Errors" in done.stdout, done.stdout
    assert (tmp_path / "again.aml").read_bytes()[36:] == TABLE
