"""A small OpenAI-compatible server of one base model and its adapters, for trying things locally.

It answers one request at a time, with transformers and PEFT alone, and is not for production: it
has no batching, no paged cache and no metrics. What a server of production does with an adapter is
the business of `exports.serving`.
"""
