"""Pictures of what the debugger knows, as SVG files that need nothing else: a timeline of exits, descriptor rings, a page walk."""
