"""Models: what a folder holds, how the hub is asked, loading, weights, devices, memory.

torch is imported only by those that need a loaded model.
"""
