"""Measure documents with a loaded model, as `plop score` does, for one variant after another."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from plop_lora.data.documents import Documents
from plop_lora.data.texts import Document
from plop_lora.data.tokens import sequence_name
from plop_lora.models.folders import expanded
from plop_lora.models.loading import describe, load_tokenizer
from plop_lora.recipe import ScoringSettings
from plop_lora.scoring.controls import measure_with_controls
from plop_lora.scoring.engines.choose import Engine, engine_for
from plop_lora.scoring.engines.processes import Processes
from plop_lora.scoring.inputs import known_name, tokenise
from plop_lora.scoring.measurement.collect import Measured
from plop_lora.scoring.measurement.settings import MeasurementSettings
from plop_lora.scoring.score import located
from plop_lora.scoring.site_checks import check_sites
from plop_lora.scoring.sites.find import Site, find_sites
from plop_lora.variants.sample import Sample, sample_of_measured
from plop_lora.variants.unavailable import UnavailableError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A model that documents are measured with.

    Attributes:
        name: Name by which the user gave it.
        engine: Engine that measures it.
        tokenizer: Its tokenizer.
        sites: Its sites, once they have been found.
        asked: Settings of the measurement.
    """

    name: str
    engine: Engine
    tokenizer: PreTrainedTokenizerBase
    sites: tuple[Site, ...]
    asked: ScoringSettings

    @property
    def special(self) -> tuple[str, ...]:
        """The special tokens of the tokenizer, as text."""
        return tuple(map(str, getattr(self.tokenizer, "all_special_tokens", ())))

    @property
    def reads_apart(self) -> bool:
        """Whether encoder and decoder read a text of their own."""
        config = getattr(self.engine.model, "config", None)
        return bool(getattr(config, "is_encoder_decoder", False))

    def measure(
        self,
        items: Sequence[Document],
        *,
        max_length: int | None = None,
    ) -> Measured:
        """Run the model on documents, in one forward pass of every text.

        Args:
            items: The documents.
            max_length: Number of tokens to which they are cut, where it is not that of the
                settings.
        """
        documents = Documents("a variant", tuple(items), len(items), 0)
        given = tokenise(
            self.engine.model, self.tokenizer, documents, max_length or self.asked.max_length,
            self.asked.batch_size, special_tokens=self.asked.special_tokens,
        )  # fmt: skip
        measured, _ = measure_with_controls(
            self.engine, self.sites, given, (), Processes(), enough=None, advance=lambda rows: None
        )
        return measured

    def sample(
        self,
        items: Sequence[Document],
        types: Sequence[str],
        *,
        max_length: int | None = None,
    ) -> Sample:
        """Measure documents, as the sums of some module types.

        Raises:
            UnavailableError: A type was not seen, so that there is no ranking to compare.
        """
        measured = self.measure(items, max_length=max_length)
        found = sample_of_measured(self.sites, measured, types)
        unseen = [
            name for index, name in enumerate(types)
            if not found.counts_SN[found.type_S == index].any()
        ]  # fmt: skip
        if unseen:
            raise UnavailableError(f"no token reached {', '.join(unseen)}")
        return found


def open_subject(
    model: str | nn.Module,
    tokenizer: PreTrainedTokenizerBase | str | Path | None,
    asked: ScoringSettings,
    *,
    progress: bool,
) -> Subject:
    """Load a model and its tokenizer; the sites are found by `with_sites`.

    Raises:
        ModelError: The model does not exist or cannot be loaded.
        UsageError: The engine cannot be used with it.
    """
    name, origin = located(model, asked)
    job = MeasurementSettings(
        name, asked.device, asked.dtype, asked.include, asked.exclude, asked.denominator,
        asked.seed, asked.cache, origin,
    )  # fmt: skip
    engine = engine_for(
        model if isinstance(model, nn.Module) else str(name), job, engine=asked.engine,
        ray_address=asked.ray_address, processes=Processes(), progress=progress,
    )  # fmt: skip
    if tokenizer is None:
        tokenizer = load_tokenizer(name or known_name(engine.model), origin)
    elif isinstance(tokenizer, str | Path):
        tokenizer = load_tokenizer(expanded(str(tokenizer)), origin.elsewhere())
    return Subject(name or describe(engine.model).name, engine, tokenizer, (), asked)


def with_sites(subject: Subject, items: Sequence[Document]) -> Subject:
    """Return a subject with the sites that a placement may choose, checked on the documents."""
    asked, model = subject.asked, subject.engine.model
    found = find_sites(model, include=asked.include, exclude=asked.exclude)
    documents = Documents("the texts", tuple(items), len(items), 0)
    given = tokenise(
        model, subject.tokenizer, documents, asked.max_length, asked.batch_size,
        special_tokens=asked.special_tokens,
    )  # fmt: skip
    found, _ = check_sites(model, found, given.batches, asked=bool(asked.include))
    return dataclasses.replace(subject, sites=found.sites)


def twin_of(subject: Subject, model: nn.Module, sites: Sequence[Site]) -> Subject:
    """Return a subject for a changed copy of its model; nothing of it is cached."""
    asked = subject.asked
    job = MeasurementSettings(
        None, asked.device, asked.dtype, asked.include, asked.exclude, asked.denominator,
        asked.seed, False,
    )  # fmt: skip
    engine = engine_for(
        model, job, engine="memory", ray_address=None, processes=Processes(), progress=False
    )
    return dataclasses.replace(subject, engine=engine, sites=tuple(sites))


def in_pairs(
    base: Sample, items: Sequence[Document], own: Sample, names: Sequence[Document]
) -> tuple[Sample, Sample]:
    """Return two samples with the same texts in the same order.

    Args:
        base: The sample of the original documents.
        items: The original documents.
        own: The sample of the changed documents.
        names: The changed documents, in the order of the original ones.

    Raises:
        UnavailableError: Fewer than two documents are left of both.
    """
    here = {name: column for column, name in enumerate(base.names)}
    there = {name: column for column, name in enumerate(own.names)}
    pairs = [
        (here[sequence_name(item)], there[sequence_name(changed)])
        for item, changed in zip(items, names, strict=True)
        if sequence_name(item) in here and sequence_name(changed) in there
    ]
    if len(pairs) < 2:
        raise UnavailableError("fewer than two of the changed texts have a token")
    return base.columns([a for a, _ in pairs]), own.columns([b for _, b in pairs])
