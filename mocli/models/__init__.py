"""One folder per model. Nobody outside a folder names it: the registry finds it."""
