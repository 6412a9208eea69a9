"""Gene2peak."""
