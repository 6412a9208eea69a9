"""The ways from a latent to values."""

from enum import StrEnum


class Route(StrEnum):
    """Through the model's decoder, through a readout fitted to its latent, or whichever is better."""

    AUTO = "auto"
    DECODER = "decoder"
    READOUT = "readout"
