"""The tools that `mocli export` writes for, and the scales that values may have."""

TOOLS = ("cellphonedb", "commot")
VALUES = ("auto", "counts", "log", "normalised")
