"""One section of the page for each kind of record. Pure functions from a record to blocks."""
