"""Transforms that are fitted on the training cells and saved with the model."""
