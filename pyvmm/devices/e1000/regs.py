"""Register table of the 82540EM. Sections: 8254x Software Developer's Manual (Intel 317453)."""

from __future__ import annotations

from pyvmm.devices.device import Field, Register, bits
from pyvmm.devices.e1000.constants import ADDRESSES, PLAIN, TABLE_WORDS
from pyvmm.devices.e1000.stats import COUNTERS, WIDE

_CAUSES = bits(
    "TXDW 0 descriptor written back",
    "TXQE 1 transmit queue empty",
    "LSC 2 link status changed",
    "RXSEQ 3",
    "RXDMT0 4 few receive descriptors left",
    "RXO 6 receiver overrun",
    "RXT0 7 frame received",
    "MDAC 9 MDIC access done",
    "RXCFG 10",
    "PHYINT 12",
    "GPI 14:13",
    "TXD_LOW 15",
    "SRPD 16",
)
_LOW, _HIGH = bits("ADDR 31:4 16-byte aligned"), bits("ADDR 31:0 upper half")
_LENGTH, _INDEX = bits("LEN 19:7 bytes, in units of 128"), bits("INDEX 15:0 descriptor")
_DELAY = bits("DELAY 15:0 units of 1.024 us; here interrupts are immediate")
_TX_DELAY = bits("DELAY 15:0 units of 1.024 us, for descriptors with IDE; here at least 128 us, for all that come meanwhile")
_THRESHOLDS = ("PTHRESH 5:0", "HTHRESH 13:8", "WTHRESH 21:16", "GRAN 24")


def _reg(name: str, offset: int, section: str, fields: tuple[Field, ...] = (), access: str = "rw", reset: int | None = None) -> Register:
    value = PLAIN[offset][0] if reset is None else reset
    return Register(name=name, offset=offset, size=4, access=access, reset=value, section=section, fields=fields)


def _addresses() -> tuple[Register, ...]:
    table: list[Register] = []
    for index in range(ADDRESSES):
        at = 0x5400 + 8 * index
        fields = bits("RAH 15:0 last two bytes", "AS 17:16 0 destination address", "AV 31 valid; RA0 is loaded from the EEPROM")
        table.append(_reg(f"RAL{index}", at, "13.5.2", bits("RAL 31:0 first four bytes")))
        table.append(_reg(f"RAH{index}", at + 4, "13.5.3", fields))
    return tuple(table)


def _counters() -> tuple[Register, ...]:
    table: list[Register] = []
    for name, offset in COUNTERS.items():
        wide = name in WIDE
        table.append(_reg(f"{name}L" if wide else name, offset, "13.7", (), "r", 0))
        if wide:
            table.append(_reg(f"{name}H", offset + 4, "13.7", (), "r", 0))
    return tuple(table)


def _table(name: str, offset: int, section: str, text: str) -> Register:
    """The first of ``TABLE_WORDS`` registers that are all alike."""
    return _reg(f"{name}[0..{TABLE_WORDS - 1}]", offset, section, bits(f"BITS 31:0 {text}"))


REGISTERS = (
    _reg(
        "CTRL", 0x00000, "13.4.1",
        bits(
            "FD 0 full duplex when forced", "LRST 3", "ASDE 5", "SLU 6 set link up", "ILOS 7", "SPEED 9:8 when forced", "FRCSPD 11",
            "FRCDPX 12", "SDP0 18", "SDP1 19", "RST 26 resets the MAC, clears itself", "RFCE 27", "TFCE 28", "VME 30 VLAN mode",
            "PHY_RST 31 resets the PHY, clears itself",
        ),
    ),
    _reg(
        "STATUS", 0x00008, "13.4.2",
        bits("FD 0 full duplex", "LU 1 link up", "FUNC 3:2", "TXOFF 4", "TBIMODE 5 0 is copper", "SPEED 7:6 2 is 1000 Mb/s", "ASDV 9:8"),
        "r", 0x283,
    ),
    _reg(
        "EECD", 0x00010, "13.4.3",
        bits("SK 0 clock", "CS 1", "DI 2", "DO 3", "FWE 5:4", "REQ 6", "GNT 7", "PRES 8 EEPROM present", "SIZE 9 0 is 64 words"),
        "rw", 0x108,
    ),
    _reg("EERD", 0x00014, "13.4.4", bits("START 0", "DONE 4", "ADDR 15:8 word", "DATA 31:16")),
    _reg("CTRL_EXT", 0x00018, "13.4.6", bits("EE_RST 13 loads the EEPROM again, clears itself")),
    _reg(
        "MDIC", 0x00020, "13.4.7",
        bits("DATA 15:0", "REGADD 20:16", "PHYADD 25:21 1", "OP 27:26 1 writes, 2 reads", "R 28 ready", "I 29 interrupt", "E 30 error"),
    ),
    _reg("FCAL", 0x00028, "13.4.8", bits("ADDR 31:0 of PAUSE frames")),
    _reg("FCAH", 0x0002C, "13.4.9", bits("ADDR 15:0")),
    _reg("FCT", 0x00030, "13.4.10", bits("TYPE 15:0 of PAUSE frames")),
    _reg("VET", 0x00038, "13.4.11", bits("TYPE 15:0 of VLAN tags")),
    _reg("ICR", 0x000C0, "13.4.17", _CAUSES, reset=0),
    _reg("ITR", 0x000C4, "13.4.18", bits("INTERVAL 15:0 units of 256 ns between two interrupts")),
    _reg("ICS", 0x000C8, "13.4.19", _CAUSES, "w", 0),
    _reg("IMS", 0x000D0, "13.4.20", _CAUSES),
    _reg("IMC", 0x000D8, "13.4.21", _CAUSES, "w", 0),
    _reg(
        "RCTL", 0x00100, "13.4.22",
        bits(
            "EN 1", "SBP 2 stores bad frames", "UPE 3 all unicast", "MPE 4 all multicast", "LPE 5 long frames", "LBM 7:6 loopback",
            "RDMTS 9:8 threshold of RXDMT0: 1/2, 1/4, 1/8", "MO 13:12 which address bits are hashed", "BAM 15 broadcast",
            "BSIZE 17:16 2048, 1024, 512, 256; with BSEX -, 16384, 8192, 4096", "VFE 18 VLAN filter", "CFIEN 19", "CFI 20", "DPF 22",
            "PMCF 23 passes MAC control frames", "BSEX 25", "SECRC 26 strips the FCS",
        ),
    ),
    _reg("FCTTV", 0x00170, "13.4.12", bits("TTV 15:0")),
    _reg("TXCW", 0x00178, "13.4.13", bits("ANE 31", "CONFIG 30", "WORD 15:0")),
    _reg("RXCW", 0x00180, "13.4.14", access="r"),
    _reg("TCTL", 0x00400, "13.4.33", bits("EN 1", "PSP 3 pads short frames", "CT 11:4", "COLD 21:12", "SWXOFF 22", "RTLC 24")),
    _reg("TIPG", 0x00410, "13.4.34", bits("IPGT 9:0", "IPGR1 19:10", "IPGR2 29:20")),
    _reg("AIT", 0x00458, "13.4.35", bits("AIFS 15:0")),
    _reg("LEDCTL", 0x00E00, "13.4.15", bits("LED0 7:0", "LED1 15:8", "LED2 23:16", "LED3 31:24")),
    _reg("PBA", 0x01000, "13.4.16", bits("RXA 15:0 KiB for receiving", "TXA 31:16 KiB for sending")),
    _reg("FCRTL", 0x02160, "13.4.23", bits("RTL 15:3 bytes", "XONE 31")),
    _reg("FCRTH", 0x02168, "13.4.24", bits("RTH 15:3 bytes")),
    _reg("RDBAL", 0x02800, "13.4.25", _LOW),
    _reg("RDBAH", 0x02804, "13.4.26", _HIGH),
    _reg("RDLEN", 0x02808, "13.4.27", _LENGTH),
    _reg("RDH", 0x02810, "13.4.28", _INDEX),
    _reg("RDT", 0x02818, "13.4.29", _INDEX),
    _reg("RDTR", 0x02820, "13.4.30", _DELAY),
    _reg("RXDCTL", 0x02828, "13.4.46", bits(*_THRESHOLDS, "ENABLE 25")),
    _reg("RADV", 0x0282C, "13.4.31", _DELAY),
    _reg("RSRPD", 0x02C00, "13.4.32", bits("SIZE 11:0")),
    _reg("TXDMAC", 0x03000, "13.4.42", bits("DPP 0")),
    _reg("TDBAL", 0x03800, "13.4.36", _LOW),
    _reg("TDBAH", 0x03804, "13.4.37", _HIGH),
    _reg("TDLEN", 0x03808, "13.4.38", _LENGTH),
    _reg("TDH", 0x03810, "13.4.39", _INDEX),
    _reg("TDT", 0x03818, "13.4.40", _INDEX),
    _reg("TIDV", 0x03820, "13.4.41", (*_TX_DELAY, *bits("FPD 31 now"))),
    _reg("TXDCTL", 0x03828, "13.4.43", bits(*_THRESHOLDS, "LWTHRESH 31:25")),
    _reg("TADV", 0x0382C, "13.4.44", _TX_DELAY),
    _reg("TSPMT", 0x03830, "13.4.45", bits("TSMT 15:0", "TSPBP 31:16")),
    _reg("RXCSUM", 0x05000, "13.4.47", bits("PCSS 7:0 start", "IPOFL 8 IP checksum", "TUOFL 9 TCP and UDP checksum")),
    _table("MTA", 0x05200, "13.5.1", "multicast hash table"),
    *_addresses(),
    _table("VFTA", 0x05600, "13.5.4", "VLANs that pass"),
    _reg("WUC", 0x05800, "13.6.1", bits("APME 0", "PME_EN 1", "PME_STATUS 2", "APMPME 3")),
    _reg("WUFC", 0x05808, "13.6.2", bits("LNKC 0", "MAG 1", "EX 2", "MC 3", "BC 4", "ARP 5", "IPV4 6", "IPV6 7", "FLX 19:16")),
    _reg("WUS", 0x05810, "13.6.3"),
    _reg("MANC", 0x05820, "13.6", bits("SMBUS_EN 0", "ARP_EN 13")),
    _reg("IPAV", 0x05838, "13.6.4", bits("V4 3:0", "V6 16")),
    _reg("SWSM", 0x05B50, "82571 and later", bits("SMBI 0", "SWESMBI 1", "WMNG 2", "DRV_LOAD 3")),
    *_counters(),
)  # fmt: skip

IO_REGISTERS = (
    Register(name="IOADDR", offset=0, size=4, access="rw", section="13.2.2", fields=bits("OFFSET 31:0 of a register")),
    Register(name="IODATA", offset=4, size=4, access="rw", reset=0x0014_0240, section="13.2.2", fields=bits("VALUE 31:0 of that register")),
)
