"""The pictures of the documentation, drawn from records that are part of the repository.

`python docs/generate.py` writes them to `docs/figures`, and their descriptions into the pages that
show them. Nothing is measured here except by `measure.py`.
"""
