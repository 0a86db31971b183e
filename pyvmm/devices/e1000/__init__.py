"""Intel 82540EM Gigabit Ethernet controller (8086:100E), after the 8254x Software Developer's Manual ("SDM", Intel 317453).

card          the PCI function: BARs, interrupt pin, the cable
mac           the register file: which handler an offset has, reset
constants     offsets, bits, reset values and writable bits; regs is the same as a table with words
eeprom, phy   what is behind EECD/EERD and MDIC
interrupts    ICR, IMS, moderation, the level of INTA
filters       which frames are for us
receive       from the wire into the receive ring
transmit      from the transmit ring to the wire; offload is the work done on a frame in between
stats         counters
trace         tells what happens to each packet; attached from outside, nothing when off
"""
