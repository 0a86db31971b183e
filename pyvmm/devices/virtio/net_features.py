"""Feature bits of virtio-net and what each needs (Virtio specification 1.2, 5.1.3)."""

from __future__ import annotations

CSUM, GUEST_CSUM, CTRL_GUEST_OFFLOADS, MTU, MAC = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 5
GUEST_TSO4, GUEST_TSO6, GUEST_ECN = 1 << 7, 1 << 8, 1 << 9
HOST_TSO4, HOST_TSO6, HOST_ECN = 1 << 11, 1 << 12, 1 << 13
MRG_RXBUF, STATUS, CTRL_VQ, CTRL_RX, CTRL_VLAN, CTRL_RX_EXTRA = 1 << 15, 1 << 16, 1 << 17, 1 << 18, 1 << 19, 1 << 20
GUEST_ANNOUNCE, CTRL_MAC_ADDR = 1 << 21, 1 << 23

SOFTWARE = (
    CSUM | GUEST_CSUM | MAC | HOST_TSO4 | HOST_TSO6 | HOST_ECN | MRG_RXBUF | STATUS
    | CTRL_VQ | CTRL_RX | CTRL_VLAN | CTRL_RX_EXTRA | GUEST_ANNOUNCE | CTRL_MAC_ADDR
)  # fmt: skip
"""What any wire allows: work that the wire does not do is done here."""
WIRE = GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | CTRL_GUEST_OFFLOADS
"""What needs a wire that brings unfinished frames (a tap)."""

# 5.1.3.1; each needs one bit at least of each mask
_NEEDS = (
    (GUEST_TSO4, (GUEST_CSUM,)), (GUEST_TSO6, (GUEST_CSUM,)), (GUEST_ECN, (GUEST_TSO4 | GUEST_TSO6,)),
    (HOST_TSO4, (CSUM,)), (HOST_TSO6, (CSUM,)), (HOST_ECN, (HOST_TSO4 | HOST_TSO6,)),
    (CTRL_RX, (CTRL_VQ,)), (CTRL_VLAN, (CTRL_VQ,)), (CTRL_RX_EXTRA, (CTRL_VQ, CTRL_RX)), (GUEST_ANNOUNCE, (CTRL_VQ, STATUS)),
    (CTRL_MAC_ADDR, (CTRL_VQ,)), (CTRL_GUEST_OFFLOADS, (CTRL_VQ,)),
)  # fmt: skip


def consistent(features: int) -> int:
    """``features`` without those whose needs are not met."""
    before = 0
    while before != features:
        before = features
        for bit, needs in _NEEDS:
            if not all(features & need for need in needs):
                features &= ~bit
    return features
