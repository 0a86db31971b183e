"""PCI: functions with their BARs and interrupts, and the bus they are plugged into."""
