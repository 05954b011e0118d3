"""Where a measurement runs: in memory, over processes, on Ray, or streamed from disk."""
