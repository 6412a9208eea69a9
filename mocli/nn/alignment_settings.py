"""Settings of the closed-form alignment, in a file of their own so that they can be read without torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class AlignmentSettings:
    """How to align; `mocli params otcca` explains each."""

    n_components: int = 30
    damping: float = 1.0
    temperature: float = 0.2
    n_iter: int = 60
    n_rounds: int = 2
    latent_weight: float = 0.3
    ridge: float = 0.01
    unmatched: float = 0.1
    evenness: float = 0
    weigh_links: bool = True
    least_link_weight: float = 0.1
