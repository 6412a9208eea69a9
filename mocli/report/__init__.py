"""The reports of a run: JSON with a schema, an HTML page, pictures."""
