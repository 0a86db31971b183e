"""The host bridge: what guests' probes of configuration mechanism 1 look for."""

from __future__ import annotations

from pyvmm.devices.pci.host import HostBridge


def test_it_is_a_host_bridge_without_bars_or_interrupt() -> None:
    bridge = HostBridge()
    assert bridge.read_config(0x0A, 2) == 0x0600
    assert bridge.read_config(0x0E, 1) == 0
    assert bridge.read_config(0x3C, 2) == 0
    assert not bridge.bars
    bridge.write_config(0x3C, 1, 0xFF)
    assert bridge.read_config(0x3C, 1) == 0
