"""What the project's own study has found so far, and which of it is nearest to a model. No torch.

`findings.json` is written by `make evidence` from the committed records of the study, never by
hand. What was asked and run stands in `docs/study-protocol.md`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FILE = Path(__file__).parent / "findings.json"
FAMILIES: Mapping[str, tuple[str, ...]] = {
    "Llama": (
        "Llama", "Mistral", "Ministral", "Qwen2", "Qwen3", "SmolLM3", "Olmo", "Olmo2", "Olmo3",
        "Granite", "Helium", "SeedOss", "StableLm", "Phi3",
    ),
    "Gemma": ("Gemma", "Gemma2", "Gemma3"),
    "BERT": (
        "Bert", "Roberta", "XLMRoberta", "Camembert", "Electra", "MPNet", "DistilBert", "Ernie",
    ),
    "GPT-2": ("GPT2", "GPTNeo", "GPTNeoX", "OPT", "Bloom"),
    "mixture": ("Mixtral", "Qwen2Moe", "Qwen3Moe", "Olmoe"),
    "LFM2": ("Lfm2",),
}  # fmt: skip
"""Family → the beginnings of the names of its classes in transformers: decoders with a gated MLP,
those of them with norms after each part as well, encoders with one MLP of two weights,
decoders with such an MLP, decoders with experts, and hybrids of convolutions and attention."""
_HEAD = re.compile(r"(For[A-Z]\w*|LMHeadModel|TextModel|Model)$")


@dataclass(frozen=True, slots=True)
class StudiedNetwork:
    """A network of the study: its name in results, title, class in transformers and size."""

    name: str
    title: str
    architecture: str
    parameters: int


@dataclass(frozen=True, slots=True)
class PairFinding:
    """What was found on a pair of network and task.

    Attributes:
        name: Name of the pair.
        network: Name of its network.
        seeds: Number of seeds of every arm.
        correlation: Spearman's rho of score and gain over the module types trained alone.
        regrets: Rule → what it leaves of the gain of the best type alone, as a share of it.
    """

    name: str
    network: str
    seeds: int
    correlation: float
    regrets: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class PooledFinding:
    """The mean correlation over all pairs, with its 95 % interval over networks.

    Attributes:
        rho: Mean of Spearman's rho.
        low: Lower end of the interval; None for one network.
        high: Upper end.
        p: Two-sided p where all pairs of a network are permuted alike.
    """

    rho: float
    low: float | None
    high: float | None
    p: float

    @property
    def shown(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low is not None and self.high is not None and self.low * self.high > 0


@dataclass(frozen=True, slots=True)
class Findings:
    """The networks and the complete pairs of the study, and what they say together."""

    networks: tuple[StudiedNetwork, ...]
    pairs: tuple[PairFinding, ...]
    pooled: PooledFinding

    def nearest(self, architecture: str, parameters: int) -> StudiedNetwork | None:
        """Return the network of the same family that is nearest in size, None without one.

        Args:
            architecture: Class of the model in transformers.
            parameters: Number of its parameters; 0 where it is not known.
        """
        family = family_of(architecture)
        alike = [one for one in self.networks if family and family_of(one.architecture) == family]
        return min(
            alike,
            key=lambda one: (abs(math.log(max(parameters, 1) / one.parameters)), one.name),
            default=None,
        )

    def of(self, network: StudiedNetwork) -> tuple[PairFinding, ...]:
        """Return the pairs of a network."""
        return tuple(pair for pair in self.pairs if pair.network == network.name)


def family_of(architecture: str) -> str | None:
    """Return the family of a class of transformers, None for one that no network stands for.

    >>> family_of("Qwen3ForCausalLM"), family_of("BertModel"), family_of("MambaForCausalLM")
    ('Llama', 'BERT', None)
    """
    stem = _HEAD.sub("", architecture)
    return next((family for family, stems in FAMILIES.items() if stem in stems), None)


@cache
def findings() -> Findings:
    """Return what the study has found, as it is part of the package."""
    from pydantic import TypeAdapter

    return TypeAdapter(Findings).validate_json(FILE.read_bytes())
