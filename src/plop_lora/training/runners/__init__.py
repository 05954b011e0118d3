"""Where trials run: in processes here, or as jobs on a Ray cluster."""
