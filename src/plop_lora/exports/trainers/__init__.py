"""One file a trainer: what its configuration can say of a placement."""
