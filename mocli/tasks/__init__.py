"""The science verbs as plain functions: no typer, no printing."""
