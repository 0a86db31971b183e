"""The statistics registers (SDM 13.7): reading clears, and a counter stays at its highest value.

A frame adds to five or six of them. It is only noted here by its length; the sums are done when somebody wants a counter.
"""

from __future__ import annotations

# fmt: off
COUNTERS = {
    "CRCERRS": 0x4000, "ALGNERRC": 0x4004, "SYMERRS": 0x4008, "RXERRC": 0x400C, "MPC": 0x4010, "SCC": 0x4014, "ECOL": 0x4018,
    "MCC": 0x401C, "LATECOL": 0x4020, "COLC": 0x4028, "DC": 0x4030, "TNCRS": 0x4034, "SEC": 0x4038, "CEXTERR": 0x403C,
    "RLEC": 0x4040, "XONRXC": 0x4048, "XONTXC": 0x404C, "XOFFRXC": 0x4050, "XOFFTXC": 0x4054, "FCRUC": 0x4058, "PRC64": 0x405C,
    "PRC127": 0x4060, "PRC255": 0x4064, "PRC511": 0x4068, "PRC1023": 0x406C, "PRC1522": 0x4070, "GPRC": 0x4074, "BPRC": 0x4078,
    "MPRC": 0x407C, "GPTC": 0x4080, "GORC": 0x4088, "GOTC": 0x4090, "RNBC": 0x40A0, "RUC": 0x40A4, "RFC": 0x40A8, "ROC": 0x40AC,
    "RJC": 0x40B0, "MGTPRC": 0x40B4, "MGTPDC": 0x40B8, "MGTPTC": 0x40BC, "TOR": 0x40C0, "TOT": 0x40C8, "TPR": 0x40D0,
    "TPT": 0x40D4, "PTC64": 0x40D8, "PTC127": 0x40DC, "PTC255": 0x40E0, "PTC511": 0x40E4, "PTC1023": 0x40E8, "PTC1522": 0x40EC,
    "MPTC": 0x40F0, "BPTC": 0x40F4, "TSCTC": 0x40F8, "TSCTFC": 0x40FC,
}
# fmt: on
WIDE = ("GORC", "GOTC", "TOR", "TOT")  # 64 bits: the low half, then the high one, whose read clears both

MPC, XONRXC, XOFFRXC, GPRC, BPRC, MPRC, GPTC = 0x4010, 0x4048, 0x4050, 0x4074, 0x4078, 0x407C, 0x4080
GORC, GOTC, RNBC, RUC, ROC, TOR, TOT = 0x4088, 0x4090, 0x40A0, 0x40A4, 0x40AC, 0x40C0, 0x40C8
TPR, TPT, MPTC, BPTC, TSCTC, TSCTFC = 0x40D0, 0x40D4, 0x40F0, 0x40F4, 0x40F8, 0x40FC
_RECEIVED, _SENT = COUNTERS["PRC64"], COUNTERS["PTC64"]
_RECEIVED_SUMS, _SENT_SUMS = (GPRC, TPR, GORC, TOR), (GPTC, TPT, GOTC, TOT)  # frames, frames, bytes, bytes
_BROADCAST = b"\xff" * 6


class Stats:
    """All counters.

    Attributes:
        counts: by offset, 64-bit ones under that of their low half; complete after ``settle``.
    """

    def __init__(self) -> None:
        self.counts = dict.fromkeys(COUNTERS.values(), 0)
        self._received: dict[int, int] = {}  # length with FCS: how many frames since ``settle``
        self._sent: dict[int, int] = {}

    def reset(self) -> None:
        """All to 0."""
        self._received.clear()
        self._sent.clear()
        for offset in self.counts:
            self.counts[offset] = 0

    def settle(self) -> None:
        """Adds up what was noted."""
        counts = self.counts
        for noted, classes, sums in ((self._received, _RECEIVED, _RECEIVED_SUMS), (self._sent, _SENT, _SENT_SUMS)):
            for size, frames in noted.items():
                good, total, good_bytes, total_bytes = sums
                counts[good] += frames
                counts[total] += frames
                counts[good_bytes] += frames * size
                counts[total_bytes] += frames * size
                counts[classes + _size_class(size)] += frames
            noted.clear()

    def offsets(self) -> list[int]:
        """Every offset that ``read`` knows."""
        return [*self.counts, *(COUNTERS[name] + 4 for name in WIDE)]

    def read(self, offset: int) -> int:
        """A counter's value; it starts anew."""
        self.settle()
        counts = self.counts
        if offset in counts:
            value = counts[offset]
            if offset in (GORC, GOTC, TOR, TOT):
                return value & 0xFFFF_FFFF
            counts[offset] = 0
            return min(value, 0xFFFF_FFFF)
        value = counts[offset - 4] >> 32
        counts[offset - 4] = 0
        return value & 0xFFFF_FFFF

    def received(self, frame: bytes, size: int) -> None:
        """A frame went to the guest; ``size`` without FCS."""
        size += 4
        noted = self._received
        noted[size] = noted.get(size, 0) + 1
        if frame[0] & 1:
            self.counts[BPRC if frame[:6] == _BROADCAST else MPRC] += 1

    def sent(self, frame: bytes | bytearray, size: int) -> None:
        """A frame went out; ``size`` without FCS."""
        size += 4
        noted = self._sent
        noted[size] = noted.get(size, 0) + 1
        if frame and frame[0] & 1:
            self.counts[BPTC if frame[:6] == _BROADCAST else MPTC] += 1


def _size_class(size: int) -> int:
    """Offset from the first of six counters: 64, 127, 255, 511, 1023, above."""
    if size > 1023:
        return 20
    return 0 if size <= 64 else 4 if size <= 127 else 8 if size <= 255 else 12 if size <= 511 else 16
