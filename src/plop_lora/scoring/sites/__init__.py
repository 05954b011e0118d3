"""The sites of a model: which weights are scored, where they stand, how they are read."""
