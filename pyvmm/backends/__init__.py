"""Where bytes end: consoles now; disk images and networks later."""
