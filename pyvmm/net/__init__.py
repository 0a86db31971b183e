"""What network devices and backends share: pure functions over Ethernet frames."""
