"""Measurement of the sites: hooks, masks, sums per sequence, expected norms."""
