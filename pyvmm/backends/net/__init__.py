"""Where a network card's frames go: the host's network, another machine, a file beside."""
