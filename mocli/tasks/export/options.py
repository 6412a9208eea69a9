"""What `mocli export` writes for, and what values may be taken for."""

TOOLS = ("cellphonedb", "commot")
VALUES = ("auto", "counts", "log", "normalised")
