"""The command line: typer only; one thin file per subcommand."""
