"""Studies of a benchmark: what they change, what they draw, how they are shown."""
