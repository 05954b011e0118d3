"""Models: local folders and the hub, loading, checks of the weights, devices and memory.

Only the files that need a loaded model import torch.
"""
