"""Where genes and peaks lie."""
