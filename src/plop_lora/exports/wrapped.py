"""Names that were saved inside a wrapper, such as `_orig_mod` of `torch.compile`. Pure.

An adapter of a wrapped model is saved with the wrapped names. No other model has these names, so
PEFT and the servers silently load such an adapter without any effect.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from plop_lora.models.wrappers import WRAPPERS

_WRAPPER = re.compile(rf"(?<![\w])({'|'.join(WRAPPERS)})\\?(?:\.|$)")
"""In a pattern the dot may be escaped."""
_PARALLEL = re.compile(r"^(base_model\.model\.)?(module)\\?\.")
"""The name that `DataParallel` and `DistributedDataParallel` put in front of all others."""
_FIELDS = ("target_modules", "target_parameters", "exclude_modules", "rank_pattern",
           "alpha_pattern", "modules_to_save")  # fmt: skip


def unwrapped(name: str) -> tuple[str, tuple[str, ...]]:
    """Return a name or a pattern without wrappers, and the wrappers that were in it.

    >>> unwrapped("base_model.model._orig_mod.model.layers.0.mlp")
    ('base_model.model.model.layers.0.mlp', ('_orig_mod',))
    >>> unwrapped("model.layers.0.module.q_proj")
    ('model.layers.0.module.q_proj', ())
    """
    plain = _WRAPPER.sub("", name)
    words = [match[1] for match in _WRAPPER.finditer(name)]
    if _PARALLEL.match(plain):
        plain = _PARALLEL.sub(lambda match: match[1] or "", plain)
        words.append("module")
    return plain.removesuffix("."), tuple(dict.fromkeys(words))


def unwrapped_fields(config: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return a PEFT configuration whose names have no wrappers, and the wrappers they had."""
    found: dict[str, None] = {}

    def plain(text: object) -> Any:
        if not isinstance(text, str):
            return text
        name, words = unwrapped(text)
        found.update(dict.fromkeys(words))
        return name

    changed = dict(config)
    for field in _FIELDS:
        value = config.get(field)
        if isinstance(value, str):
            changed[field] = plain(value)
        elif isinstance(value, Mapping):
            changed[field] = {plain(key): entry for key, entry in value.items()}
        elif isinstance(value, list):
            changed[field] = [plain(entry) for entry in value]
    return changed, tuple(found)
