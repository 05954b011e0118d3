"""Scores, placement and PEFT's configuration in one call, for those who train with PEFT already.

Each function is the steps `score`, `place` and `to_peft` one after the other, with their defaults.
Imports torch only when it is called.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plop_lora._version import __version__
from plop_lora.errors import OutputError, RecordError, UsageError, nearest
from plop_lora.files import cache_folder
from plop_lora.recipe import PlacementSettings, ScoringSettings
from plop_lora.records import Placement, Scores

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from plop_lora.data.documents import Documents

    Texts = Iterable[str | Mapping[str, object]] | Documents

_BESIDE = {"device", "engine", "ray_address", "cache", "batch_size", "token"}
"""Settings of the measurement on which no score depends."""


def lora_config(
    model: str | Path | nn.Module,
    tokenizer: PreTrainedTokenizerBase | str | Path | None = None,
    texts: Texts | None = None,
    *,
    r: int = 16,
    **keys: object,
) -> LoraConfig:
    """Return the configuration of LoRA adapters on the module types with the lowest scores.

    The configuration has been applied with PEFT, and the modules and ranks that it reaches are
    those of the placement. Of a model given by name, the scores are cached by the content of its
    weights, the texts and the settings; a module may have been changed since it was loaded, so it
    is scored at every call.

    Args:
        model: Loaded model, or a hub id or folder.
        tokenizer: Its tokenizer, or the name of one. By default that of the model.
        texts: Strings, `Documents` from `load_documents`, or rows such as a `datasets.Dataset`.
            About 200 are enough, and they need no labels.
        r: Rank of every adapter.
        **keys: Keys of the steps, such as `top=2`, `strategy="plop"`, `scaling=1.0`,
            `max_length=256`; `ScoringSettings` and `PlacementSettings` describe them. A `budget`
            takes the place of `r`.

    Returns:
        A `peft.LoraConfig`, for `peft_config=` of TRL's trainers or for `get_peft_model`.

    Raises:
        UsageError: A key is unknown, or a value is not valid.
        PlopError: What `score`, `place` and `to_peft` raise.
    """
    from torch import nn

    scoring, placing = _divided(keys)
    placement = _placed(model, tokenizer, texts, scoring, {"rank": r} | placing)
    return placement.to_peft(model if isinstance(model, nn.Module) else None)


def find_target_modules(
    model: str | Path | nn.Module,
    tokenizer: PreTrainedTokenizerBase | str | Path | None = None,
    texts: Texts | None = None,
    **keys: object,
) -> dict[str, list[str] | str | None]:
    """Return the targets of LoRA in the form of PEFT's own helpers.

    Args:
        model: As for `lora_config`.
        tokenizer: As for `lora_config`.
        texts: As for `lora_config`.
        **keys: As for `lora_config`.

    Returns:
        The fields `target_modules` and `target_parameters`, for `LoraConfig(**fields, r=16)`. The
        latter is None for a model without stacked experts.

    Raises:
        PlopError: As `lora_config`.
    """
    config = lora_config(model, tokenizer, texts, **keys)  # type: ignore[arg-type]
    modules, parameters = config.target_modules, config.target_parameters
    return {
        "target_modules": sorted(modules) if isinstance(modules, set) else modules,
        "target_parameters": sorted(parameters) if parameters else None,
    }


def _divided(keys: Mapping[str, object]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the keys of `score` and those of `place`; some belong to both.

    Raises:
        UsageError: A key belongs to neither.
    """
    fields = (ScoringSettings.model_fields, PlacementSettings.model_fields)
    known = sorted({*fields[0], *fields[1]})
    unknown = next((key for key in keys if key not in known), None)
    if unknown is not None:
        raise UsageError(
            f"There is no key {unknown!r}.{nearest(unknown, known)} The keys are those of score "
            f"and place: {', '.join(known)}."
        )
    scoring, placing = ({k: v for k, v in keys.items() if k in names} for names in fields)
    return scoring, placing


def _placed(
    model: str | Path | nn.Module,
    tokenizer: Any,
    texts: Texts | None,
    scoring: Mapping[str, object],
    placing: dict[str, Any],
) -> Placement:
    from plop_lora.placement import place

    if placing.get("budget") is not None:
        placing = {key: value for key, value in placing.items() if key != "rank"}
    settings = ScoringSettings.of(None, scoring)
    return place(_scores(model, tokenizer, texts, settings), **placing)


def _scores(
    model: str | Path | nn.Module, tokenizer: Any, texts: Texts | None, settings: ScoringSettings
) -> Scores:
    """Return the scores, from the cache where they are known."""
    from torch import nn

    from plop_lora.scoring import score

    if isinstance(model, nn.Module) or texts is None:
        return score(model, tokenizer, texts, settings=settings)
    documents, path = _known(str(model), tokenizer, texts, settings)
    if path is not None and path.exists():
        with contextlib.suppress(RecordError):
            return Scores.load(path)
    scores = score(model, tokenizer, documents, settings=settings)
    if path is not None:
        with contextlib.suppress(OutputError):
            scores.save(path)
    return scores


def _known(
    model: str, tokenizer: Any, texts: Texts, settings: ScoringSettings
) -> tuple[Documents, Path | None]:
    """Return the sample of the texts, and the file that their scores have or will have.

    There is no file where nothing is cached, or where the weights cannot be identified.
    """
    import transformers

    from plop_lora.models.loading import load_tokenizer
    from plop_lora.models.origin import Origin
    from plop_lora.models.pinning import pinned
    from plop_lora.scoring.inputs import as_documents
    from plop_lora.scoring.measurement.expected_norm_cache import checkpoint_key

    asked = Origin(settings.revision, settings.trust_remote_code, settings.token, settings.gguf)
    origin = pinned(model, asked)
    reader = tokenizer
    if tokenizer is None or isinstance(tokenizer, str | Path):
        elsewhere = origin if tokenizer is None else origin.elsewhere()
        reader = load_tokenizer(str(tokenizer or model), elsewhere)
    documents = as_documents(texts, reader, settings.seed)
    folder = cache_folder()
    weights = checkpoint_key(model, origin)
    if folder is None or weights is None or not settings.cache:
        return documents, None
    decides = (
        weights, repr(documents), repr(reader), settings.model_dump_json(exclude=_BESIDE),
        __version__, transformers.__version__,
    )  # fmt: skip
    key = hashlib.sha256("\n".join(decides).encode()).hexdigest()
    return documents, folder / "scores" / f"{key}.json"
