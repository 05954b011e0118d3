"""The engine for models larger than memory: blocks are read from disk one after another."""
