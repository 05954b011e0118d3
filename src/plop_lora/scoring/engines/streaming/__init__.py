"""The engine for models larger than memory: blocks and experts come from disk one by one."""
