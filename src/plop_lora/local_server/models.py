"""The models that are served: a base, its adapters, and which of them answers. Imports torch.

Adapters share one base, and PEFT switches between them. An adapter whose initialisation changed the
base weights (PiSSA, OLoRA), or that trained biases, would change the base and every other adapter,
so it gets a base of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel

from plop_lora.evaluation.chats import Ends, ends_of_turns, prompt_tokens
from plop_lora.evaluation.generation import prompt_tokens_left
from plop_lora.evaluation.judged import Prepared
from plop_lora.exports.adapters import WEIGHTS_FILE, read_adapter, read_header
from plop_lora.gating.adapter import Judged, adapter_digest, check_fits
from plop_lora.local_server.refusals import RefusedError
from plop_lora.models.loading import quietly
from plop_lora.placement.inits import PREPARED, moves_base
from plop_lora.records import TrainingSettings
from plop_lora.training.adapters import loading_adapter
from plop_lora.training.base import load_base
from plop_lora.training.tasks import TASKS
from plop_lora.training.weights import TrainedModel


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """A model that has a name in requests.

    Attributes:
        name: Its name.
        prepared: Network with its tokenizer; several models share one network.
        adapter: Name of its adapter in the network; None is the base.
        positions: Most tokens of a prompt and its answer.
        ends: What ends an answer in a chat beside the end-of-sequence token.
    """

    name: str
    prepared: Prepared
    adapter: str | None
    positions: int
    ends: Ends

    @contextlib.contextmanager
    def at_work(self) -> Iterator[Prepared]:
        """Let the network answer as this model."""
        network: Any = self.prepared.model
        if self.adapter is not None:
            network.set_adapter(self.adapter)
        elif isinstance(network, PeftModel):
            with network.disable_adapter():
                yield self.prepared
            return
        yield self.prepared

    def ends_of(self, *, is_chat: bool) -> Ends:
        """Return what ends an answer beside the end-of-sequence token."""
        return self.ends if is_chat else Ends()

    def tokens_of(self, prompt: str | list[dict[str, str]], most_tokens: int | None) -> list[int]:
        """Return the tokens of a prompt.

        Raises:
            RefusedError: The prompt has no tokens or is too long with its answer, or it is a chat
                and the tokenizer has no chat template, or one that refuses it.
        """
        tokenizer = self.prepared.tokenizer
        if not isinstance(prompt, str) and not tokenizer.chat_template:
            raise RefusedError(
                400,
                f"The tokenizer of {self.name} has no chat template. Send a text to "
                "/v1/completions, or serve an instruct model.",
                "messages",
            )
        parameter = "prompt" if isinstance(prompt, str) else "messages"
        try:
            found = prompt_tokens(prompt, tokenizer)
        except Exception as error:  # templates are programs and raise what they like
            reason = " ".join(str(error).split())[:_SHOWN].rstrip(".")
            raise RefusedError(
                400, f"The chat template refuses it: {reason}.", parameter
            ) from error
        if not found:
            raise RefusedError(400, "The prompt has no tokens.", parameter)
        if len(found) + (most_tokens or 1) > self.positions:
            raise RefusedError(
                400,
                f"The prompt has {len(found)} tokens and the answer up to {most_tokens or 1}, and "
                f"the context length of {self.name} is {self.positions}. Shorten the prompt, or "
                "ask for fewer tokens.",
                parameter,
                "context_length_exceeded",
            )
        return found


_SHOWN = 200


def load_served(
    model: str,
    name: str,
    adapters: Mapping[str, Path],
    *,
    device: str = "auto",
    dtype: str = "auto",
) -> tuple[ServedModel, ...]:
    """Load a base with its adapters, the base first.

    Args:
        model: Hub id or folder of the base.
        name: Name of the base in requests.
        adapters: Name in requests → folder of the adapter.
        device: Device, as for `load_model`.
        dtype: Dtype, as for `load_model`.

    Raises:
        AdapterError: A folder is none of a LoRA adapter, or of one of another base.
        ModelError: The base cannot be loaded, or writes no text.
        UsageError: The device or dtype is unknown, or the base is no causal language model.
    """
    for folder in adapters.values():
        _check(folder, model)
    settings = TrainingSettings(device=device, dtype=dtype)
    apart = {one for one, folder in adapters.items() if _changes_base(folder)}
    shared = {one: folder for one, folder in adapters.items() if one not in apart}
    served = _network(model, settings, {name: None, **shared})
    for one in sorted(apart):
        served |= _network(model, settings, {one: adapters[one]})
    return tuple(served[one] for one in (name, *adapters))


def _check(folder: Path, base: str) -> None:
    adapter = read_adapter(folder)
    shapes, _ = read_header(folder / WEIGHTS_FILE)
    check_fits(Judged(folder, adapter_digest(folder), TrainedModel(base), adapter, shapes))


def _changes_base(folder: Path) -> bool:
    """Whether an adapter cannot be switched off to give its base again."""
    config = read_adapter(folder).config
    init = config.get("init_lora_weights", True)
    moved = isinstance(init, str) and (moves_base(init) or init in PREPARED)
    return moved or config.get("bias", "none") != "none"


def _network(
    model: str, settings: TrainingSettings, names: Mapping[str, Path | None]
) -> dict[str, ServedModel]:
    """Load a base once, with the adapters that share it."""
    with quietly():
        base = load_base(TASKS["sft"], model, settings=settings)
    network: Any = base.model
    # PEFT's own names cannot hold a dot, which names in requests may.
    own = {one: f"adapter{place}" for place, one in enumerate(names)}
    for one, folder in names.items():
        if folder is None:
            continue
        with loading_adapter(folder, model):
            if isinstance(network, PeftModel):
                network.load_adapter(str(folder), own[one])
            else:
                network = PeftModel.from_pretrained(network, str(folder), adapter_name=own[one])
    prepared = Prepared(network.eval(), base.tokenizer, base.notes)
    positions = prompt_tokens_left(base.model, 0)
    ends = ends_of_turns(base.tokenizer) if base.tokenizer.chat_template else Ends()
    return {
        one: ServedModel(one, prepared, own[one] if folder else None, positions, ends)
        for one, folder in names.items()
    }


def named(models: Sequence[ServedModel], name: str) -> ServedModel:
    """Return the model of a name.

    Raises:
        RefusedError: There is none.
    """
    for model in models:
        if model.name == name:
            return model
    known = ", ".join(model.name for model in models)
    raise RefusedError(
        404, f"There is no model {name!r}. Served are: {known}.", "model", "model_not_found"
    )
