"""Reports of a recording: text, an HTML page, Chrome's trace format, folded stacks."""
