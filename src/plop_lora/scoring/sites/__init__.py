"""The sites of a model: which weights are scored, their place in it, and how they are read."""
