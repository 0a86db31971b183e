"""The exit debugger: one guest in time, breakpoints, and those who look at it (prompt, gdb, monitor)."""
