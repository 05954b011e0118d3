"""What one measurement is: hooks, masks, sums by sequence, expected norms."""
