"""paramgolf: train, squeeze, score, referee and prove a language model of at most 16,000,000 bytes."""

__version__ = "0.1.0"
