"""The pipeline: from data to a decision, stage by stage, in a folder that goes on where it stopped.

Each stage is the step of a verb. Nothing is computed here. Imports no torch by itself.
"""
