"""Published tools that a benchmark runs besides its models, each in its own process and environment.

A peer is a file: `PEER` says what it is and needs, `place` runs it. Such files import nothing of mocli and,
before `place`, nothing but the standard library and numpy: the Python that runs them need not have mocli.
"""
