"""One file per family of metrics. No other module names these files: the registry finds them."""
