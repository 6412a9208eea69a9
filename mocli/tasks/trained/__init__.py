"""Trained."""
