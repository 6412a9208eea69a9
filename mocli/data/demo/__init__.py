"""The demo data of `mocli demo`."""
