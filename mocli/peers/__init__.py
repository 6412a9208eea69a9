"""Published tools that a benchmark runs beside its models, each in a process and an environment of its own.

A peer is a file: `PEER` says what it is and needs, `place` runs it. Such files import nothing of mocli and,
before `place`, nothing but the standard library and numpy: the Python that runs them need not have mocli.
"""
