"""What a model answers to rows and how good that is: losses, generated answers, rewards, harnesses.

Needs no training: a model that was never finetuned is judged as well. Imports no torch by itself.
"""
