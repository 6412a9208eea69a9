"""Links between features of two modalities: read, matched, built."""
