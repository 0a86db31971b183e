"""What each register is for, in a few words. The tables of the devices have names, offsets and bits; this is for their readers.

Statistics counters of the e1000 have no entry: their names in SDM 13.7 say it all.
"""

from __future__ import annotations

_SERIAL = {
    "RBR": "receiver buffer: the oldest character received",
    "THR": "transmitter holding register: the character goes out on the line, here to the console",
    "DLL": "divisor latch, low byte: 115200 / divisor is the baud rate",
    "DLM": "divisor latch, high byte",
    "IER": "which events may interrupt",
    "IIR": "which interrupt is pending; reading takes a THR-empty interrupt back",
    "FCR": "switches and clears the FIFOs",
    "LCR": "format of a character; DLAB turns offsets 0 and 1 into the divisor latch",
    "MCR": "modem outputs",
    "LSR": "line status: is there a character, may I send the next",
    "MSR": "modem inputs, and whether they changed",
    "SCR": "scratch: a byte to keep, often a test whether there is a UART",
}
_RTC = {"INDEX": "chooses a byte of the clock; bit 7 masks NMI", "DATA": "the byte chosen"}
_RTC_INDEXED = {
    "SEC": "seconds", "SECALM": "seconds of the alarm", "MIN": "minutes", "MINALM": "minutes of the alarm", "HOUR": "hours",
    "HOURALM": "hours of the alarm", "WDAY": "day of the week", "DAY": "day of the month", "MONTH": "month", "YEAR": "year",
    "A": "rates, and whether an update is under way", "B": "formats and which events interrupt", "C": "which events came; reading clears",
    "D": "whether the battery held", "SHUTDOWN": "what firmware does after a reset", "CENTURY": "century",
}  # fmt: skip
_I8042 = {"DATA": "a byte from the keyboard, or one for it"}
_I8042_COMMAND = {"STATUS": "may I read, may I write", "COMMAND": "a command for the controller itself"}
_FLASH = {"STATUS": "did the last operation end, and how", "COMMAND": "a command, or the data of one"}
_ACPI = {
    "PM1_STS": "which fixed events happened; writing 1 clears",
    "PM1_EN": "which fixed events raise SCI",
    "PM1_CNT": "sleep type and the bit that goes to sleep: S5 is power-off",
    "PM_TMR": "the power management timer",
}
_PCI_BUS = {
    "CONFADD": "which register of which function the data port shows (mechanism 1)",
    "RST_CNT": "reset control",
    "CONFDATA": "the configuration register that was chosen at 0xcf8",
}
_PCI_HEADER = {
    "VID": "vendor; ffff: there is no such function", "DID": "device, by the vendor's numbering", "CMD": "what the function may do",
    "STS": "errors, interrupt pin, capabilities", "RID": "revision", "CC": "class of device", "CLS": "cache line size",
    "LAT": "latency timer", "HDR": "layout of this header", "BAR0": "base address 0", "BAR1": "base address 1",
    "BAR2": "base address 2", "BAR3": "base address 3", "BAR4": "base address 4", "BAR5": "base address 5",
    "SVID": "subsystem vendor", "SID": "subsystem", "CAP_PTR": "where the list of capabilities begins",
    "ILINE": "interrupt line: a note from firmware to drivers", "IPIN": "which of INTA to INTD; 0 is none",
}  # fmt: skip
_CAPABILITY = {
    "CAP_ID": "what kind of capability", "NEXT": "where the next one is; 0 ends the list", "CONTROL": "size, enable and mask of MSI-X",
    "TABLE": "where the vectors are", "PBA": "where the pending bits are", "LENGTH": "bytes of this capability",
    "TYPE": "what it points to", "BAR": "in which BAR", "OFFSET": "where in that BAR", "SIZE": "how many bytes there",
    "DATA": "a window into the BAR", "MULTIPLIER": "bytes between two doorbells",
}  # fmt: skip
_MSIX = {
    "ADDR": "where the message goes, low half", "UADDR": "where the message goes, high half", "MSG": "the message: vector and delivery",
    "CTRL": "bit 0 masks this vector",
}  # fmt: skip
_VIRTIO_PCI = {
    "device_feature_select": "which 32 feature bits device_feature shows", "device_feature": "features the device offers",
    "driver_feature_select": "which 32 feature bits driver_feature takes", "driver_feature": "features the driver accepts",
    "config_msix_vector": "MSI-X vector for changes of the configuration; ffff is none", "num_queues": "how many queues there are",
    "device_status": "how far the driver has come; writing 0 resets the device", "config_generation": "changes with the configuration",
    "queue_select": "which queue the next registers are about", "queue_size": "entries of the queue; 0: there is no such queue",
    "queue_msix_vector": "MSI-X vector of this queue; ffff is none", "queue_enable": "the queue is ready",
    "queue_notify_off": "where its doorbell is", "queue_desc": "address of the descriptor table",
    "queue_driver": "address of the available ring: what the driver hands over",
    "queue_device": "address of the used ring: what the device gives back", "queue_notif_config_data": "not in use here",
    "queue_reset": "resets this queue alone", "ISR": "why the pin interrupted; reading clears",
    "queue_notify": "doorbell: there is something new in the queue",
}  # fmt: skip
_VIRTIO_MMIO = {
    "MagicValue": "the letters virt", "Version": "2: not legacy", "DeviceID": "what kind of device; 0 is none", "VendorID": "who made it",
    "DeviceFeatures": "features the device offers", "DeviceFeaturesSel": "which 32 feature bits DeviceFeatures shows",
    "DriverFeatures": "features the driver accepts", "DriverFeaturesSel": "which 32 feature bits DriverFeatures takes",
    "QueueSel": "which queue the next registers are about", "QueueSizeMax": "most entries of the queue; 0: there is no such queue",
    "QueueSize": "entries of the queue", "QueueReady": "the queue is ready", "QueueNotify": "doorbell: this queue has something new",
    "InterruptStatus": "why it interrupted", "InterruptACK": "the driver has seen these", "QueueReset": "resets this queue alone",
    "Status": "how far the driver has come; writing 0 resets the device", "QueueDescLow": "address of the descriptor table, low half",
    "QueueDescHigh": "address of the descriptor table, high half", "QueueDriverLow": "address of the available ring, low half",
    "QueueDriverHigh": "address of the available ring, high half", "QueueDeviceLow": "address of the used ring, low half",
    "QueueDeviceHigh": "address of the used ring, high half", "SHMSel": "shared memory region", "SHMLenLow": "its length, low half",
    "SHMLenHigh": "its length, high half; all ones: there is none", "SHMBaseLow": "its address, low half",
    "SHMBaseHigh": "its address, high half", "ConfigGeneration": "changes with the configuration",
}  # fmt: skip
_BLK = {
    "CAPACITY": "size in sectors of 512 bytes", "SIZE_MAX": "most bytes of a segment", "SEG_MAX": "most segments of a request",
    "CYLINDERS": "of an imaginary geometry", "HEADS": "likewise", "SECTORS": "likewise", "BLK_SIZE": "block size in bytes",
    "PHYSICAL_BLOCK_EXP": "physical block as a power of two of logical ones", "ALIGNMENT_OFFSET": "of the first aligned block",
    "MIN_IO_SIZE": "smallest request that is no trouble, in blocks", "OPT_IO_SIZE": "best size of a request, in blocks",
    "WRITEBACK": "whether writes are cached", "NUM_QUEUES": "how many queues there are",
    "MAX_DISCARD_SECTORS": "most sectors to discard at once", "MAX_DISCARD_SEG": "most ranges of a discard",
    "DISCARD_SECTOR_ALIGNMENT": "of ranges to discard", "MAX_WRITE_ZEROES_SECTORS": "most sectors to fill with zeros at once",
    "MAX_WRITE_ZEROES_SEG": "most ranges of it", "WRITE_ZEROES_MAY_UNMAP": "zeros may become holes",
}  # fmt: skip
_CONSOLE = {"COLS": "width", "ROWS": "height", "MAX_NR_PORTS": "how many ports there are", "EMERG_WR": "prints a character at once"}
_NET = {"MAC": "the card's address", "STATUS": "link", "MAX_VIRTQUEUE_PAIRS": "pairs of queues", "MTU": "largest packet"}
_E1000 = {
    "CTRL": "link settings and resets", "STATUS": "link and speed", "EECD": "EEPROM, bit by bit", "EERD": "reads a word of the EEPROM",
    "CTRL_EXT": "reloads the EEPROM", "MDIC": "reads and writes the PHY's registers", "FCAL": "address of PAUSE frames, low part",
    "FCAH": "address of PAUSE frames, high part", "FCT": "type of PAUSE frames", "VET": "type of VLAN tags",
    "ICR": "interrupt causes; reading clears", "ITR": "least time between interrupts", "ICS": "sets causes, for tests",
    "IMS": "allows causes", "IMC": "forbids causes", "RCTL": "receiver control", "FCTTV": "how long PAUSE lasts",
    "TXCW": "fibre only", "RXCW": "fibre only", "TCTL": "transmitter control", "TIPG": "gap between frames", "AIT": "adaptive gap",
    "LEDCTL": "lights", "PBA": "memory for receiving and sending", "FCRTL": "when to end PAUSE", "FCRTH": "when to send PAUSE",
    "RDBAL": "receive ring, low half of its address", "RDBAH": "receive ring, high half", "RDLEN": "receive ring, length",
    "RDH": "receive ring, head: the next the card fills", "RDT": "receive ring, tail: buffers up to here are the card's",
    "RDTR": "delay of the receive interrupt", "RXDCTL": "receive descriptors, thresholds", "RADV": "longest delay of it",
    "RSRPD": "small packets", "TXDMAC": "transmit DMA", "TDBAL": "transmit ring, low half of its address",
    "TDBAH": "transmit ring, high half", "TDLEN": "transmit ring, length", "TDH": "transmit ring, head: the next the card sends",
    "TDT": "transmit ring, tail: writing it sends what lies before it", "TIDV": "delay of the transmit interrupt",
    "TXDCTL": "transmit descriptors, thresholds", "TADV": "longest delay of it", "TSPMT": "segmentation", "RXCSUM": "receive checksums",
    "MTA": "multicast hash table", "VFTA": "VLANs that pass", "WUC": "wake-up control", "WUFC": "what wakes up", "WUS": "what woke up",
    "MANC": "management", "IPAV": "IP addresses that wake up",
    "SWSM": "who has the EEPROM, on later cards",
    **{f"RAL{index}": f"receive address {index}, first four bytes" for index in range(16)},
    **{f"RAH{index}": f"receive address {index}, last two bytes" for index in range(16)},
}  # fmt: skip
_FW_CFG = {
    "SELECTOR": "chooses an item", "DATA": "the item's next byte", "DMA_HIGH": "address of a DMA request, high half",
    "DMA_LOW": "address of a DMA request, low half: starts it",
}  # fmt: skip

_D = "pyvmm.devices."
MEANINGS: dict[str, dict[str, str]] = {
    _D + "serial_regs:REGISTERS": _SERIAL,
    _D + "rtc_regs:REGISTERS": _RTC,
    _D + "rtc_regs:INDEXED": _RTC_INDEXED,
    _D + "i8042_regs:REGISTERS": _I8042,
    _D + "i8042_regs:COMMAND_PORT": _I8042_COMMAND,
    _D + "acpi_pm_regs:REGISTERS": _ACPI,
    _D + "pci.bus_regs:REGISTERS": _PCI_BUS,
    _D + "pci.function_regs:HEADER": _PCI_HEADER,
    _D + "pci.msix_regs:ENTRY": _MSIX,
    "capability": _CAPABILITY,
    "other": {
        "BIST": "self test; there is none", "CIS": "for CardBus", "ROM": "address of the card's ROM; there is none",
        "MIN_GNT": "how long bursts are", "MAX_LAT": "how often it wants the bus", "RESERVED": "no register of this function",
    },
    _D + "virtio.pci_regs:REGISTERS": _VIRTIO_PCI,
    _D + "virtio.legacy_regs:REGISTERS": {
        **{name: _VIRTIO_PCI[name] for name in (
            "device_status", "queue_select", "queue_size", "ISR", "config_msix_vector", "queue_msix_vector")},
        "device_features": "features the device offers", "driver_features": "features the driver accepts",
        "queue_address": "where the queue is, as a number of a page", "queue_notify": "doorbell: which queue has something new",
    },
    _D + "virtio.mmio_regs:REGISTERS": _VIRTIO_MMIO,
    _D + "virtio.blk_regs:REGISTERS": _BLK,
    _D + "virtio.console_regs:REGISTERS": _CONSOLE,
    _D + "virtio.net_regs:REGISTERS": _NET,
    _D + "e1000.regs:REGISTERS": _E1000,
    _D + "e1000.regs:IO_REGISTERS": {"IOADDR": "which register IODATA is", "IODATA": "the register chosen"},
    _D + "flash_regs:REGISTERS": _FLASH,
    _D + "fw_cfg_regs:REGISTERS": _FW_CFG,
    _D + "debug_ports_regs:DEBUGCON": {"DEBUGCON": "a byte for the debug console; reads e9"},
    _D + "debug_ports_regs:DEBUG_EXIT": {"EXIT": "ends the run with status 2 * value + 1"},
    _D + "system_ports_regs:PORT_A": {"PORTA": "fast A20 and fast reset"},
    _D + "system_ports_regs:RESET_CONTROL": {"RST_CNT": "reset control"},
    _D + "system_ports_regs:KEYBOARD_RESET": {"STATUS": "all ones: there is no controller", "COMMAND": "0xfe resets, there as here"},
    _D + "system_ports_regs:EMPTY_IDE": {
        "DATA": "no disk", "ERROR": "no disk", "COUNT": "no disk", "LBA_LOW": "no disk", "LBA_MID": "no disk", "LBA_HIGH": "no disk",
        "DEVICE": "no disk", "STATUS": "0: nothing is on this channel",
    },
    _D + "system_ports_regs:POST": {"POST": "progress of the power-on self test; a write here also serves as a short delay"},
    _D + "system_ports_regs:BOCHS_SHUTDOWN": {"SHUTDOWN": "the letters of Shutdown, one by one, switch off"},
    _D + "pc_testdev_regs:LATCH": {"LATCH": "four bytes of storage"},
    _D + "pc_testdev_regs:FLUSH": {"FLUSH": "has the host forget a page"},
    _D + "pc_testdev_regs:IRQ_LINES": {f"IRQ{line}": f"level of interrupt line {line}" for line in range(24)},
    _D + "pc_testdev_regs:MEMORY": {"MEMORY": "bytes that keep what was written"},
    _D + "pci.testdev_regs:HEADER": {
        "TEST": "which test", "WIDTH": "bytes of an access", "OFFSET": "where to write", "DATA": "what to write", "COUNT": "writes seen",
        "NAME": "of the test",
    },
}  # fmt: skip

_VENDORS = {0x1AF4: "virtio", 0x1B36: "Red Hat", 0x8086: "Intel", 0xFFFF: "nobody"}
_TYPES = {1: "network", 2: "block", 3: "console", 4: "entropy"}
_NO_VECTOR = {0xFFFF: "none"}
# (table, register) -> what single values mean
VALUES: dict[tuple[str, str], dict[int, str]] = {
    (_D + "pci.function_regs:HEADER", "VID"): _VENDORS,
    (_D + "pci.function_regs:HEADER", "SVID"): _VENDORS,
    (_D + "pci.function_regs:HEADER", "DID"): {
        **{0x1040 + kind: f"virtio {name}" for kind, name in _TYPES.items()}, 0x100E: "82540EM", 0x0008: "host bridge",
        0x0005: "pci-testdev",
    },
    (_D + "pci.function_regs:HEADER", "CC"): {
        0x060000: "host bridge", 0x020000: "Ethernet", 0x010000: "SCSI, which is what virtio disks say", 0x078000: "communication",
        0x00FF00: "unclassified",
    },
    (_D + "pci.function_regs:HEADER", "IPIN"): {0: "none", 1: "INTA", 2: "INTB", 3: "INTC", 4: "INTD"},
    ("capability", "CAP_ID"): {0x01: "power management", 0x05: "MSI", 0x09: "vendor specific", 0x10: "PCI Express", 0x11: "MSI-X"},
    ("capability", "NEXT"): {0: "the last"},
    ("capability", "TYPE"): {
        1: "common configuration", 2: "doorbells", 3: "interrupt status", 4: "device configuration", 5: "access through here",
    },
    (_D + "virtio.pci_regs:REGISTERS", "device_status"): {0: "reset"},
    (_D + "virtio.legacy_regs:REGISTERS", "device_status"): {0: "reset"},
    (_D + "virtio.pci_regs:REGISTERS", "config_msix_vector"): _NO_VECTOR,
    (_D + "virtio.pci_regs:REGISTERS", "queue_msix_vector"): _NO_VECTOR,
    (_D + "virtio.mmio_regs:REGISTERS", "DeviceID"): {0: "none", **_TYPES},
    (_D + "virtio.mmio_regs:REGISTERS", "MagicValue"): {0x7472_6976: "virt"},
    (_D + "virtio.mmio_regs:REGISTERS", "Status"): {0: "reset"},
    (_D + "serial_regs:REGISTERS", "IER"): {0: "no interrupts"},
    (_D + "acpi_pm_regs:REGISTERS", "PM1_CNT"): {0x2000: "power off", 0x2400: "sleep, S3"},
    (_D + "i8042_regs:COMMAND_PORT", "COMMAND"): {
        0x20: "read the command byte", 0x60: "write the command byte", 0xA7: "mouse off", 0xA8: "mouse on", 0xA9: "test the mouse port",
        0xAA: "self test", 0xAB: "test the keyboard port", 0xAD: "keyboard off", 0xAE: "keyboard on", 0xD0: "read the output port",
        0xD1: "write the output port", 0xD4: "next byte is for the mouse", 0xFE: "reset the processor",
    },
    (_D + "e1000.regs:REGISTERS", "IMC"): {0xFFFF_FFFF: "all of them"},
    (_D + "fw_cfg_regs:REGISTERS", "SELECTOR"): {
        0x00: "signature", 0x01: "version and features", 0x05: "number of processors", 0x0F: "most processors", 0x19: "directory of files",
    },
}  # fmt: skip

# who answers, by device class as tables name it: what a person calls it
DEVICES = {
    _D + "serial_regs:REGISTERS": "16550A UART",
    _D + "rtc_regs:REGISTERS": "CMOS clock",
    _D + "i8042_regs:REGISTERS": "keyboard controller",
    _D + "i8042_regs:COMMAND_PORT": "keyboard controller",
    _D + "acpi_pm_regs:REGISTERS": "ACPI power management",
    _D + "pci.bus_regs:REGISTERS": "PCI bus, configuration mechanism 1",
    _D + "pci.msix_regs:ENTRY": "MSI-X table",
    _D + "virtio.pci_regs:REGISTERS": "virtio-pci",
    _D + "virtio.legacy_regs:REGISTERS": "virtio-pci, legacy interface",
    _D + "virtio.mmio_regs:REGISTERS": "virtio-mmio",
    _D + "e1000.regs:REGISTERS": "Intel 82540EM",
    _D + "e1000.regs:IO_REGISTERS": "Intel 82540EM, I/O window",
    _D + "flash_regs:REGISTERS": "flash memory",
    _D + "fw_cfg_regs:REGISTERS": "QEMU's firmware configuration",
    _D + "debug_ports_regs:DEBUGCON": "debug console",
    _D + "debug_ports_regs:DEBUG_EXIT": "debug exit",
    _D + "system_ports_regs:PORT_A": "system control port A",
    _D + "system_ports_regs:POST": "POST code",
    _D + "system_ports_regs:KEYBOARD_RESET": "a keyboard controller's reset",
    _D + "system_ports_regs:BOCHS_SHUTDOWN": "Bochs' shutdown port",
    _D + "pc_testdev_regs:LATCH": "kvm-unit-tests' pc-testdev",
    _D + "pc_testdev_regs:FLUSH": "kvm-unit-tests' pc-testdev",
    _D + "pc_testdev_regs:IRQ_LINES": "kvm-unit-tests' pc-testdev",
    _D + "pc_testdev_regs:MEMORY": "kvm-unit-tests' pc-testdev",
    _D + "pci.testdev_regs:HEADER": "kvm-unit-tests' pci-testdev",
}


# table -> the document that its sections are of, where these are numbers
DOCUMENTS = {
    _D + "serial_regs:REGISTERS": "PC16550D",
    _D + "acpi_pm_regs:REGISTERS": "ACPI 6.5",
    _D + "virtio.pci_regs:REGISTERS": "Virtio 1.2",
    _D + "virtio.legacy_regs:REGISTERS": "Virtio 1.2",
    _D + "virtio.mmio_regs:REGISTERS": "Virtio 1.2",
    _D + "virtio.blk_regs:REGISTERS": "Virtio 1.2",
    _D + "virtio.console_regs:REGISTERS": "Virtio 1.2",
    _D + "virtio.net_regs:REGISTERS": "Virtio 1.2",
    _D + "e1000.regs:REGISTERS": "8254x SDM",
    _D + "e1000.regs:IO_REGISTERS": "8254x SDM",
    _D + "rtc_regs:REGISTERS": "MC146818A",
    _D + "rtc_regs:INDEXED": "MC146818A",
}


def meaning(table: str, register: str) -> str:
    """What a register is for, "" when its name must do."""
    name = register.partition("[")[0].partition(" of ")[0].partition("+")[0]
    return MEANINGS.get(table, {}).get(name, "")


def value_meaning(table: str, register: str, value: int) -> str:
    """What one value of a register means, "" as a rule."""
    return VALUES.get((table, register), {}).get(value, "")
