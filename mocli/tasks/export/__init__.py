"""Expression as tools of cell-cell communication read it."""
