"""Exits explained, from tables: ``explain`` makes a structure of an exit, ``text.render`` a page of the structure.

exits.decode(page)                    the exit
layout.Layout.of(machine)             who is where on the buses: plain data, also in recordings
layout.states(machine)                device states before and after
who.locate(exit, regs, sregs, memory) the instruction
explain.explain(...)                  all of it together, a pure function
text.render(explanation)              100 columns
"""
