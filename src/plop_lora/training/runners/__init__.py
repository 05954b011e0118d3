"""Runners of trials: in processes on this machine, or as tasks on a Ray cluster."""
