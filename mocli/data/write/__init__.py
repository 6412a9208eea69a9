"""Writing: the user's modalities with what mocli adds, whole or not at all."""
