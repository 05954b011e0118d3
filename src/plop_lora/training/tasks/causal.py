"""What the tasks that train a causal language model have in common."""

from __future__ import annotations

from plop_lora.errors import ModelError, UsageError
from plop_lora.records.scores import ModelReference
from plop_lora.training.task import Loading, ModelClass


def causal_class(loading: Loading) -> ModelClass:
    """Return the class of a causal language model.

    Raises:
        UsageError: An encoder, or an encoder with a decoder.
    """
    import transformers

    name, config = loading.model, loading.config
    declared = (config.architectures or [""])[0]
    if declared.endswith("ForMaskedLM"):
        raise UsageError(
            f"{name} is a {declared}, which writes no text. The task {loading.task} needs a "
            "causal language model; an encoder can be trained by the task classify."
        )
    if config.is_encoder_decoder:
        raise UsageError(
            f"{name} has an encoder and a decoder, and the task {loading.task} needs a causal "
            "language model. It can be scored and placed; train it with transformers' "
            "Seq2SeqTrainer on the placement of plop export --to peft. For labels, the task "
            "classify trains its encoder-decoder with a head."
        )
    return ModelClass(transformers.AutoModelForCausalLM, {})


def check_causal_reference(task: str, model: ModelReference) -> None:
    """Refuse a scored model that writes no text.

    Raises:
        ModelError: The text names a task that takes it.
    """
    writes = model.task_type == "CAUSAL_LM" or model.architecture.endswith(
        "ForConditionalGeneration"
    )
    if not writes or model.task_type == "SEQ_2_SEQ_LM":
        raise ModelError(
            f"{model.name} ({model.architecture}) is not a causal language model, which "
            f"{task} trains. For a classifier take --task classify."
        )
