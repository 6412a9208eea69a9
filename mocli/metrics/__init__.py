"""One file per family of metrics. Nobody outside a file names it: the registry finds it."""
