"""Data: reading files, recognising fields, drawing samples, making batches."""
