"""Reports render records and never compute: rows first, then a terminal or a notebook."""
