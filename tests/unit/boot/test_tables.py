"""BIOS data area, MP table and ACPI tables: every checksum, length and pointer, and iasl's opinion where it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from struct import pack, unpack, unpack_from

import pytest

from pyvmm import layout
from pyvmm.boot import acpi, mptable
from pyvmm.boot.tables import command_line, platform_tables, rsdp_address
from pyvmm.config import DeviceConfig, SerialConfig
from tests.support import images


class Memory:
    """Guest memory below 1 MiB as the tables' writes leave it."""

    def __init__(self, **options):
        serials, mmio = options.pop("serials", 1), options.pop("mmio", 0)
        devices = (DeviceConfig(name="virtio-rng-pci"), *(DeviceConfig(name="virtio-rng-device"),) * mmio)
        self.config = images.config("x", **options).replace(serials=(SerialConfig(),) * serials, devices=devices)
        self.writes = platform_tables(self.config)
        self.bytes = bytearray(layout.ONE_MIB)
        for gpa, data in self.writes:
            assert gpa + len(data) <= layout.ONE_MIB
            self.bytes[gpa : gpa + len(data)] = data

    def get(self, gpa, length):
        return bytes(self.bytes[gpa : gpa + length])


@pytest.fixture(params=[1, 2, 255], ids=["1 cpu", "2 cpus", "255 cpus"])
def memory(request):
    return Memory(smp=request.param, serials=4)


def test_writes_are_disjoint(memory):
    ranges = sorted((gpa, gpa + len(data)) for gpa, data in memory.writes)
    assert all(end <= start for (_, end), (start, _) in zip(ranges, ranges[1:], strict=False))


def test_the_bios_data_area_names_the_ebda(memory):
    (segment,) = unpack("<H", memory.get(0x40E, 2))
    (base_kib,) = unpack("<H", memory.get(0x413, 2))
    assert segment << 4 == base_kib << 10 == layout.EBDA
    assert memory.get(layout.EBDA, 1) == b"\1"


# --- MP table (Intel MP 1.4) -------------------------------------------------------------------------------------------
def mp_pointer(memory, start, end):
    """Searches as a guest does: 16-byte aligned signature with a good checksum."""
    for at in range(start, end, 16):
        data = memory.get(at, 16)
        if data[:4] == b"_MP_" and not sum(data) & 0xFF:
            return data
    return None


def mp_entries(memory):
    (table,) = unpack_from("<I", mp_pointer(memory, 0xF0000, 0x100000), 4)
    (length,) = unpack("<H", memory.get(table + 4, 2))
    data = memory.get(table, length)
    assert data[:4] == b"PCMP"
    assert sum(data) & 0xFF == 0
    count, lapic = unpack_from("<HI", data, 34)
    entries, at = [], 44
    while at < length:
        size = 20 if data[at] == 0 else 8
        entries.append(data[at : at + size])
        at += size
    assert at == length
    assert count == len(entries)
    assert lapic == layout.LAPIC
    return entries


def test_the_floating_pointer_is_in_the_ebda_and_in_the_f_segment(memory):
    in_ebda = mp_pointer(memory, layout.EBDA, layout.EBDA + 1024)
    assert in_ebda is not None
    assert in_ebda == mp_pointer(memory, 0xF0000, 0x100000)


def test_mp_entries_ascend_and_ids_are_unique(memory):
    entries = mp_entries(memory)
    assert [entry[0] for entry in entries] == sorted(entry[0] for entry in entries)
    cpus = [entry for entry in entries if entry[0] == 0]
    assert [entry[1] for entry in cpus] == list(range(memory.config.smp))
    assert [entry[3] for entry in cpus] == [3] + [1] * (memory.config.smp - 1)
    (ioapic,) = [entry for entry in entries if entry[0] == 2]
    assert ioapic[1] == memory.config.smp
    assert unpack_from("<I", ioapic, 4) == (layout.IOAPIC,)


def test_mp_interrupts_are_those_of_the_board(memory):
    entries = [entry for entry in mp_entries(memory) if entry[0] == 3 and entry[4] == mptable.ISA_BUS]
    pins = {entry[5]: entry[7] for entry in entries}
    assert pins == {irq: 2 if irq == 0 else irq for irq in (0, 1, 3, 4, 6, 7, 8, 9, 13, 14, 15)}  # 2: the cascade; the others: PCI's
    assert len(set(pins.values())) == len(pins)
    assert {entry[5]: unpack_from("<H", entry, 2)[0] for entry in entries}[layout.IRQ_SCI] == 0b1101
    local = [entry for entry in mp_entries(memory) if entry[0] == 4]
    assert [(entry[1], entry[6], entry[7]) for entry in local] == [(3, 0xFF, 0), (1, 0xFF, 1)]


def test_mp_buses_and_pci_interrupts(memory):
    entries = mp_entries(memory)
    assert [entry[1:] for entry in entries if entry[0] == 1] == [b"\0PCI   ", b"\1ISA   "]
    wired = {entry[5]: entry for entry in entries if entry[0] == 3 and entry[4] == mptable.PCI_BUS}
    assert sorted(wired) == list(range(1 << 2, 32 << 2))
    for source, entry in wired.items():
        assert entry[7] == layout.PCI_IRQS[layout.pci_line(source >> 2, (source & 3) + 1)]
        assert unpack_from("<H", entry, 2) == (0b1101,)  # level, active high


def test_virtio_mmio_lines_are_level_triggered_where_there_are_such_devices():
    memory = Memory(mmio=6)
    entries = [entry for entry in mp_entries(memory) if entry[0] == 3 and entry[4] == mptable.ISA_BUS]
    level = {entry[5] for entry in entries if unpack_from("<H", entry, 2) == (0b1101,)}
    assert level == {layout.IRQ_SCI, *layout.VIRTIO_MMIO_IRQS}
    assert overrides(memory) == [(0, 0, 2, 0), *((0, irq, irq, 0b1101) for irq in (5, 6, 7, 9, 10, 11, 12, 14, 15))]
    body = acpi_of(memory)[b"DSDT"]
    assert body.count(b"LNRO0005") == 6
    for slot in range(6):
        assert pack("<II", layout.VIRTIO_MMIO + 0x200 * slot, 0x200) in body
    assert layout.virtio_mmio(Memory(mmio=12).config.devices)[-1] == (layout.VIRTIO_MMIO + 7 * 0x200, 15)  # no more than fit


# --- ACPI --------------------------------------------------------------------------------------------------------------
def sdt(memory, at, signature):
    (length,) = unpack("<I", memory.get(at + 4, 4))
    data = memory.get(at, length)
    assert data[:4] == signature
    assert sum(data) & 0xFF == 0, signature
    return data


def acpi_of(memory):
    """Follows RSDP -> RSDT and XSDT -> tables, checking all checksums on the way."""
    at = next(at for at in range(0xE0000, 0x100000, 16) if memory.get(at, 8) == b"RSD PTR ")
    assert at == rsdp_address(memory.config) == acpi.RSDP
    rsdp = memory.get(at, 36)
    assert sum(rsdp[:20]) & 0xFF == sum(rsdp) & 0xFF == 0
    revision, rsdt_at, length, xsdt_at = unpack_from("<BIIQ", rsdp, 15)
    assert (revision, length) == (2, 36)
    rsdt, xsdt = sdt(memory, rsdt_at, b"RSDT"), sdt(memory, xsdt_at, b"XSDT")
    listed = unpack_from(f"<{(len(rsdt) - 36) // 4}I", rsdt, 36)
    assert listed == unpack_from(f"<{(len(xsdt) - 36) // 8}Q", xsdt, 36)
    tables = {memory.get(one, 4): sdt(memory, one, memory.get(one, 4)) for one in listed}
    fadt = tables[b"FACP"]
    facs_at, dsdt_at = unpack_from("<II", fadt, 36)
    assert unpack_from("<QQ", fadt, 132) == (0, dsdt_at)
    assert facs_at % 64 == 0
    tables[b"DSDT"] = sdt(memory, dsdt_at, b"DSDT")
    tables[b"FACS"] = memory.get(facs_at, 64)
    return tables


def test_every_table_is_found_from_the_rsdp(memory):
    tables = acpi_of(memory)
    assert set(tables) == {b"FACP", b"APIC", b"DSDT", b"FACS"}
    assert tables[b"FACS"][:8] == b"FACS" + b"\x40\0\0\0"


def test_without_acpi_nothing_is_left_of_it():
    memory = Memory(acpi=False)
    assert b"RSD PTR " not in memory.bytes
    assert rsdp_address(memory.config) == 0
    assert mp_pointer(memory, 0xF0000, 0x100000) is not None


def test_the_fadt_describes_the_pm_block_and_reset(memory):
    fadt = acpi_of(memory)[b"FACP"]
    assert len(fadt) == 276
    assert unpack_from("<H", fadt, 46) == (layout.IRQ_SCI,)
    assert unpack_from("<IBB", fadt, 48) == (0, 0, 0)  # no SMI command port: always in ACPI mode
    assert unpack_from("<8I", fadt, 56) == (0x600, 0, 0x604, 0, 0, 0x608, 0, 0)
    assert tuple(fadt[88:96]) == (4, 2, 0, 4, 0, 0, 0, 0)
    assert fadt[108] == 0x32
    boot_arch, flags = unpack_from("<HxI", fadt, 109)
    assert boot_arch & 0b100011 == 0b01  # legacy devices, no keyboard to look for, and an RTC
    assert flags & (1 << 10)  # RESET_REG_SUP
    assert not flags & (1 << 8 | 1 << 4)  # 24-bit timer, fixed power button
    assert unpack_from("<BBBBQB", fadt, 116) == (1, 8, 0, 1, 0xCF9, 0x06)
    for offset, port, bits in ((148, 0x600, 32), (172, 0x604, 16), (208, 0x608, 32)):
        assert unpack_from("<BBB", fadt, offset) == (1, bits, 0)
        assert unpack_from("<Q", fadt, offset + 4) == (port,)


def overrides(memory):
    madt, found = acpi_of(memory)[b"APIC"], []
    at = 44
    while at < len(madt):
        if madt[at] == 2:
            found.append(unpack_from("<BBIH", madt, at + 2))
        at += madt[at + 1]
    return found


def test_the_madt_lists_cpus_ioapic_and_overrides(memory):
    madt = acpi_of(memory)[b"APIC"]
    assert unpack_from("<II", madt, 36) == (layout.LAPIC, 1)
    entries, at = [], 44
    while at < len(madt):
        entries.append(madt[at : at + madt[at + 1]])
        at += madt[at + 1]
    assert [unpack("<BBBBI", entry) for entry in entries if entry[0] == 0] == [(0, 8, n, n, 1) for n in range(memory.config.smp)]
    assert [unpack("<BBBBII", entry) for entry in entries if entry[0] == 1] == [(1, 12, memory.config.smp, 0, layout.IOAPIC, 0)]
    assert overrides(memory) == [(0, 0, 2, 0), *((0, irq, irq, 0b1101) for irq in (5, 9, 10, 11, 12))]


@pytest.mark.parametrize("serials", [0, 1, 4])
def test_the_dsdt_has_the_configured_serial_ports_only(serials):
    body = acpi_of(Memory(serials=serials))[b"DSDT"]
    assert [n for n in range(1, 5) if f"COM{n}".encode() in body] == list(range(1, serials + 1))
    assert b"_S5_" in body


@pytest.mark.skipif(not shutil.which("iasl"), reason="iasl (acpica-tools) is not installed")
@pytest.mark.parametrize("smp, serials, mmio, memory", [(1, 0, 0, 128 << 20), (4, 4, 8, 6 << 30)])
def test_iasl_takes_every_table_apart_and_puts_the_dsdt_together_again(tmp_path, smp, serials, mmio, memory):
    for name, data in acpi_of(Memory(smp=smp, serials=serials, mmio=mmio, memory=memory)).items():
        (tmp_path / f"{name.decode()}.dat").write_bytes(data)
        done = subprocess.run(["iasl", "-d", f"{name.decode()}.dat"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        output = done.stdout + done.stderr
        assert done.returncode == 0, output
        for word in ("rror", "arning", "nvalid", "truncat"):
            assert word not in output, output
    source = (tmp_path / "DSDT.dsl").read_text()
    assert source.count('EisaId ("PNP0501")') == serials
    assert source.count('"LNRO0005"') == mmio
    assert _packages(source, "_PRT", layout.PCI_IRQS)
    first = 0x1_0000_0000 if memory < 3 << 30 else 0x1_C000_0000
    assert f"0x{first:016X}" in source and f"0x{first + (16 << 30) - 1:016X}" in source
    done = subprocess.run(["iasl", "-p", "again", "DSDT.dsl"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "0 Errors, 0 Warnings" in done.stdout, done.stdout


def _packages(source, name, lines):
    """Whether a _PRT in iasl's words names each pin of slots 1..31 with its line."""
    text = source[source.index(f"Name ({name},") :].partition("{")[2].replace("Package (0x04)", "")
    numbers = [int({"Zero": "0", "One": "1"}.get(word, word), 16) for word in re.findall(r"0x[0-9A-F]+|Zero|One", text)]
    entries = [tuple(numbers[at : at + 4]) for at in range(0, 31 * 4 * 4, 4)]
    return entries == [(slot << 16 | 0xFFFF, pin, 0, lines[(slot + pin) % 4]) for slot in range(1, 32) for pin in range(4)]


def test_without_acpi_linux_reads_on_its_command_line_where_virtio_mmio_is(tmp_path):
    cards = tuple(DeviceConfig(name=name) for name in ("virtio-rng-device", "virtio-rng-pci", "virtio-rng-device"))
    config = images.config(tmp_path / "kernel", cmdline="quiet", acpi=False).replace(devices=cards)
    said = "quiet virtio_mmio.device=512@0xfeb00000:6 virtio_mmio.device=512@0xfeb00200:7"
    assert command_line(config) == said
    assert command_line(config.replace(boot=config.boot.replace(cmdline=""))) == said[6:]
    assert command_line(config.replace(acpi=True)) == "quiet"
    assert command_line(config.replace(devices=cards[1:2])) == "quiet"
    own = "virtio_mmio.device=512@0xfeb00200:7"
    assert command_line(config.replace(boot=config.boot.replace(cmdline=own))) == own
