"""What inference servers make of an adapter, and folders that they serve right."""
