"""Offsets and bits of the 82540EM's registers as the code uses them; ``regs`` has all of them with words and sections."""

from __future__ import annotations

MMIO_SIZE, IO_SIZE = 0x20000, 64
IOADDR, IODATA = 0, 4  # in the I/O BAR

CTRL, CTRL_DUP, STATUS, EECD, EERD, CTRL_EXT, MDIC = 0x00000, 0x00004, 0x00008, 0x00010, 0x00014, 0x00018, 0x00020
FCAL, FCAH, FCT, VET = 0x00028, 0x0002C, 0x00030, 0x00038
ICR, ITR, ICS, IMS, IMC = 0x000C0, 0x000C4, 0x000C8, 0x000D0, 0x000D8
RCTL, FCTTV, TXCW, RXCW, TCTL, TIPG, AIT = 0x00100, 0x00170, 0x00178, 0x00180, 0x00400, 0x00410, 0x00458
LEDCTL, PBA, FCRTL, FCRTH = 0x00E00, 0x01000, 0x02160, 0x02168
RDBAL, RDBAH, RDLEN, RDH, RDT = 0x02800, 0x02804, 0x02808, 0x02810, 0x02818
RDTR, RXDCTL, RADV, RSRPD = 0x02820, 0x02828, 0x0282C, 0x02C00
TXDMAC, TSPMT = 0x03000, 0x03830
TDBAL, TDBAH, TDLEN, TDH, TDT = 0x03800, 0x03804, 0x03808, 0x03810, 0x03818
TIDV, TXDCTL, TADV = 0x03820, 0x03828, 0x0382C
RXCSUM, MTA, RA, VFTA = 0x05000, 0x05200, 0x05400, 0x05600
WUC, WUFC, WUS, IPAV, MANC, IP4AT, IP6AT = 0x05800, 0x05808, 0x05810, 0x05838, 0x05820, 0x05840, 0x05880
SWSM = 0x05B50  # of later cards; U-Boot's driver takes the semaphore on any before it reads the EEPROM

ADDRESSES = 16  # RA
TABLE_WORDS = 128  # MTA, VFTA

# (offset, length) of registers whose writes may reach the card late, but before it is looked at: nothing follows from them by itself.
# Those of the fast path (RDT, ITR) and those that are written often at the start (EEPROM, filters).
POSTED = ((EECD, 8), (ITR, 4), (RDT, 4), (MTA, VFTA + 4 * TABLE_WORDS - MTA))

# CTRL
CTRL_FD, CTRL_SLU, CTRL_SPEED_SHIFT, CTRL_FRCSPD, CTRL_FRCDPX = 1 << 0, 1 << 6, 8, 1 << 11, 1 << 12
CTRL_RST, CTRL_RFCE, CTRL_VME, CTRL_PHY_RST = 1 << 26, 1 << 27, 1 << 30, 1 << 31
# STATUS
STATUS_FD, STATUS_LU, STATUS_SPEED_SHIFT, STATUS_ASDV_SHIFT = 1 << 0, 1 << 1, 6, 8
CTRL_EXT_EE_RST = 1 << 13
# Interrupt causes. Bits 5 and 8 are reserved, but ICS sets them like the rest: Linux's interrupt test wants that.
TXDW, TXQE, LSC, RXSEQ, RXDMT0, RXO, RXT0 = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 6, 1 << 7
MDAC = 1 << 9
CAUSES = 0x1FFFF
# RCTL
RCTL_EN, RCTL_SBP, RCTL_UPE, RCTL_MPE, RCTL_LPE = 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 5
RCTL_LBM_SHIFT, RCTL_RDMTS_SHIFT, RCTL_MO_SHIFT, RCTL_BAM = 6, 8, 12, 1 << 15
RCTL_BSIZE_SHIFT, RCTL_VFE, RCTL_CFIEN, RCTL_CFI, RCTL_PMCF = 16, 1 << 18, 1 << 19, 1 << 20, 1 << 23
RCTL_BSEX, RCTL_SECRC = 1 << 25, 1 << 26
RCTL_WRITABLE = 0x06DF_B3FE  # all others are reserved and read as 0 (13.4.22)
TCTL_EN, TCTL_PSP = 1 << 1, 1 << 3
TIDV_FPD = 1 << 31
RXCSUM_IPOFL, RXCSUM_TUOFL = 1 << 8, 1 << 9
RAH_VALID, RAH_WRITABLE = 1 << 31, 0x8003_FFFF

FRAME_LIMIT, JUMBO_LIMIT = 1518, 16380  # bytes without FCS, VLAN tag included; above: "long packets" (RCTL.LPE)
FCS = 4

_ALL = 0xFFFF_FFFF


def _plain() -> dict[int, tuple[int, int]]:
    """Registers that just remember: offset -> (reset value, writable bits). Handlers of other rooms come before these."""
    table = {
        CTRL: (0x0014_0240, _ALL & ~CTRL_RST & ~CTRL_PHY_RST),  # link up, 1000 Mb/s; SDP0 and SDP2 high
        STATUS: (0, 0),
        CTRL_EXT: (0, _ALL & ~CTRL_EXT_EE_RST),
        EERD: (0, 0),
        MDIC: (1 << 28, 0),
        FCAL: (0, _ALL),
        FCAH: (0, 0xFFFF),
        FCT: (0, 0xFFFF),
        VET: (0x8100, 0xFFFF),
        ITR: (0, 0xFFFF),
        IMS: (0, 0),
        RCTL: (0, RCTL_WRITABLE),
        FCTTV: (0, 0xFFFF),
        TXCW: (0, 0xC000_FFFF),
        RXCW: (0, 0),
        TCTL: (0x8, 0x03FF_FFFA),
        TIPG: (0x0060_2008, 0x3FFF_FFFF),
        AIT: (0, 0xFFFF),
        LEDCTL: (0x0706_1302, _ALL),
        PBA: (0x0010_0030, 0xFFFF),
        FCRTL: (0, 0x8000_FFF8),
        FCRTH: (0, 0xFFF8),
        RDBAL: (0, 0xFFFF_FFF0),
        RDBAH: (0, _ALL),
        RDLEN: (0, 0xF_FF80),
        RDH: (0, 0xFFFF),
        RDT: (0, 0xFFFF),
        RDTR: (0, 0xFFFF),
        RXDCTL: (0x0001_0000, 0x033F_3F3F),
        RADV: (0, 0xFFFF),
        RSRPD: (0, 0xFFF),
        TXDMAC: (0, 1),
        TSPMT: (0x0100_0400, _ALL),
        TDBAL: (0, 0xFFFF_FFF0),
        TDBAH: (0, _ALL),
        TDLEN: (0, 0xF_FF80),
        TDH: (0, 0xFFFF),
        TDT: (0, 0xFFFF),
        TIDV: (0, 0xFFFF),
        TXDCTL: (0, 0xFF3F_3F3F),
        TADV: (0, 0xFFFF),
        RXCSUM: (0, 0x7FF),
        WUC: (0, 0xF),
        WUFC: (0, 0xF_00FF),
        WUS: (0, 0xF_00FF),
        IPAV: (0, 0x1_000F),
        MANC: (0, _ALL),
        SWSM: (0, 0xF),
    }
    for index in range(4):
        table[IP4AT + 8 * index] = table[IP6AT + 4 * index] = (0, _ALL)
    for index in range(ADDRESSES):
        table[RA + 8 * index], table[RA + 8 * index + 4] = (0, _ALL), (0, RAH_WRITABLE)
    for index in range(TABLE_WORDS):
        table[MTA + 4 * index] = table[VFTA + 4 * index] = (0, _ALL)
    return table


PLAIN = _plain()
