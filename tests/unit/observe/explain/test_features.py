"""Feature bits by name, 32 at a time."""

from __future__ import annotations

from pyvmm.devices.virtio import blk, net_features
from pyvmm.observe.explain.features import _BLK, _NET, _OWN, fields, selection


def test_names_go_with_the_selected_half() -> None:
    assert fields("device_feature", 1 << 9 | 1 << 29, {"device_feature_select": 0}, _BLK) == [
        (29, "EVENT_IDX", "each side says when it wants to be told"),
        (9, "FLUSH", "has a cache that can be flushed"),
    ]
    assert [each[1] for each in fields("driver_feature", 1, {"driver_feature_select": 1}, _BLK) or []] == ["VERSION_1"]
    assert fields("DeviceFeatures", 1 << 23, {"device_feature_select": 0}, None) == [(23, "?", "not known")]


def test_other_registers_have_none() -> None:
    assert fields("queue_size", 1, {"device_feature_select": 0}, _BLK) is None
    assert fields("device_feature", 1, {}, _BLK) is None


def test_selection() -> None:
    assert selection("queue_size", {"queue_select": 3}) == "of queue 3"
    assert selection("DriverFeatures", {"driver_feature_select": 1}) == "bits 63:32"
    assert selection("device_status", {"queue_select": 3}) == ""


def test_numbers_are_those_of_the_devices() -> None:
    for bit, (name, _) in _OWN[_NET].items():
        assert getattr(net_features, name, 1 << bit) == 1 << bit, name
    for bit, (name, _) in _OWN[_BLK].items():
        assert getattr(blk, f"F_{name}", 1 << bit) == 1 << bit, name
