"""Sets of cells aligned in closed form."""
