"""The engines that run a measurement: in memory, over processes, on Ray, streamed from disk."""
