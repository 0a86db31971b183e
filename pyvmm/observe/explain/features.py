"""Registers of virtio whose meaning depends on another one: feature bits, 32 at a time; and which queue is selected.

Virtio specification 1.2: 6 (all devices), 5.1.3 (net), 5.2.3 (blk), 5.3.3 (console).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_COMMON = {
    24: ("NOTIFY_ON_EMPTY", ""),
    27: ("ANY_LAYOUT", ""),
    28: ("INDIRECT_DESC", "a descriptor may name a table of descriptors"),
    29: ("EVENT_IDX", "each side says when it wants to be told"),
    32: ("VERSION_1", "not a legacy device"),
    33: ("ACCESS_PLATFORM", "memory through an IOMMU"),
    34: ("RING_PACKED", "the other layout of rings"),
    35: ("IN_ORDER", ""),
    36: ("ORDER_PLATFORM", ""),
    37: ("SR_IOV", ""),
    38: ("NOTIFICATION_DATA", ""),
    39: ("NOTIF_CONFIG_DATA", ""),
    40: ("RING_RESET", "one queue can be reset alone"),
}
_NET, _BLK, _CONSOLE = 1, 2, 3
_OWN = {
    _NET: {
        0: ("CSUM", "the device finishes checksums"), 1: ("GUEST_CSUM", "the driver does"), 2: ("CTRL_GUEST_OFFLOADS", ""), 3: ("MTU", ""),
        5: ("MAC", "the address is in the configuration"), 7: ("GUEST_TSO4", ""), 8: ("GUEST_TSO6", ""), 9: ("GUEST_ECN", ""),
        10: ("GUEST_UFO", ""), 11: ("HOST_TSO4", "the device cuts TCP segments"), 12: ("HOST_TSO6", ""), 13: ("HOST_ECN", ""),
        14: ("HOST_UFO", ""), 15: ("MRG_RXBUF", "a frame may fill several buffers"), 16: ("STATUS", "link up or down can be read"),
        17: ("CTRL_VQ", "there is a control queue"), 18: ("CTRL_RX", ""), 19: ("CTRL_VLAN", ""), 20: ("CTRL_RX_EXTRA", ""),
        21: ("GUEST_ANNOUNCE", ""), 22: ("MQ", "several pairs of queues"), 23: ("CTRL_MAC_ADDR", ""),
    },
    _BLK: {
        1: ("SIZE_MAX", ""), 2: ("SEG_MAX", "most segments of a request"), 4: ("GEOMETRY", ""), 5: ("RO", "read-only"),
        6: ("BLK_SIZE", "block size in the configuration"), 9: ("FLUSH", "has a cache that can be flushed"), 10: ("TOPOLOGY", ""),
        11: ("CONFIG_WCE", "the cache can be switched"), 12: ("MQ", "several queues"), 13: ("DISCARD", ""), 14: ("WRITE_ZEROES", ""),
    },
    _CONSOLE: {0: ("SIZE", "columns and rows can be read"), 1: ("MULTIPORT", ""), 2: ("EMERG_WRITE", "a register that prints")},
}  # fmt: skip

# register -> the state's field that says which 32 bits it shows
_REGISTERS = {
    "device_feature": "device_feature_select",
    "driver_feature": "driver_feature_select",
    "DeviceFeatures": "device_feature_select",
    "DriverFeatures": "driver_feature_select",
}
# registers of the queue that queue_select names
_OF_QUEUE = (
    "queue_size", "queue_msix_vector", "queue_enable", "queue_notify_off", "queue_desc", "queue_driver", "queue_device", "queue_reset",
    "QueueSizeMax", "QueueSize", "QueueReady", "QueueDescLow", "QueueDescHigh", "QueueDriverLow", "QueueDriverHigh", "QueueDeviceLow",
    "QueueDeviceHigh", "QueueReset",
)  # fmt: skip


def fields(register: str, value: int, state: dict[str, Any], device_type: int | None) -> list[tuple[int, str, str]] | None:
    """[(bit, name, text)] of the feature bits set in a value, highest first; None for any other register."""
    select = _REGISTERS.get(register)
    if select is None or select not in state:
        return None
    first = 32 * state[select]
    names = {**_COMMON, **_OWN.get(device_type or 0, {})}
    bits = [first + bit for bit in range(31, -1, -1) if value >> bit & 1]
    return [(bit, *names.get(bit, ("?", "not known"))) for bit in bits]


def selection(register: str, state: dict[str, Any]) -> str:
    """ "of queue 1", "bits 63:32", or "" for a register that nothing selects."""
    if register in _OF_QUEUE and "queue_select" in state:
        return f"of queue {state['queue_select']}"
    select = _REGISTERS.get(register)
    if select is not None and select in state:
        first = 32 * state[select]
        return f"bits {first + 31}:{first}"
    return ""
