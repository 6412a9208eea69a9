"""Mathematics shared by two or more models, each piece with its source."""
