"""Weights to few bytes: quantisers, an entropy coder for their integers, and the fit to a byte budget. NumPy only."""
