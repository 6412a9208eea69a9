"""What a run leaves behind to be read: a JSON report with a schema, an HTML page, pictures."""
