"""Logged prompts through all arms of an experiment, compared pair by pair, before any traffic.

    found = replay(Path("prompts.jsonl"), ReplaySettings(url, {"now": "base", "next": "next"}))

Any OpenAI-compatible endpoint that serves the arms will do. Nothing is split: every prompt goes to
every arm. No torch.
"""

from plop_lora.ab.replay.run import replay
from plop_lora.ab.replay.settings import ReplaySettings, settings_of

__all__ = ["ReplaySettings", "replay", "settings_of"]
