"""The suites: what is measured, on which items, and how. Imports no torch.

What measures imports it when it is called.
"""
