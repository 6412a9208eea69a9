"""Nearest neighbours of many points: how they are found quickly."""
