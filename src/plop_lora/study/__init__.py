"""What every set of finetunes has in common: one recipe, its rows, its folder, its trials.

`verification` and `tuning` are two policies over one `Study`. Imports no torch.
"""
