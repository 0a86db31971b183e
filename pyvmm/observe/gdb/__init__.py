"""The gdb remote serial protocol: framing, packets, target description, server. What is debugged is behind ``target.Target``."""
