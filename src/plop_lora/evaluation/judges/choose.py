"""From the word of a recipe to a judge. No torch."""

from __future__ import annotations

from pathlib import Path

from plop_lora.errors import UsageError
from plop_lora.evaluation.judges.endpoint import EndpointJudge, check_template, check_url
from plop_lora.evaluation.judges.function import KINDS, FunctionJudge
from plop_lora.evaluation.judges.judge import Judge
from plop_lora.user_code import parts_of

_SCHEMES = ("http://", "https://")


def judge_of(
    word: str | None,
    *,
    model: str | None = None,
    key_variable: str = "OPENAI_API_KEY",
    timeout: float = 60.0,
    retries: int = 4,
    cache: Path | None = None,
    template: str | None = None,
    concurrency: int = 4,
) -> Judge:
    """Return the judge that a recipe names; nothing is imported and nothing is asked.

    Args:
        word: A function of the user's as `module:function`, which is called with a prompt and its
            answer; or the address of an OpenAI-compatible endpoint, which usually ends in /v1.
        model: Name of the model at the endpoint.
        key_variable: Environment variable with the key of the endpoint; a local server needs none.
        timeout: Seconds that each try of a request may take.
        retries: Number of further tries after a failure that may pass, such as status 429 or 500.
        cache: File in which judgements are kept, so that nothing is asked twice; None keeps none.
        template: Text of one message with {prompt} and {answer}, for a general model as a judge;
            None sends the two as a chat, for a guard model.
        concurrency: Number of requests at the same time.

    Raises:
        UsageError: There is no word, it is neither of the two, or an argument does not suit it.
    """
    if word is None:
        raise UsageError(
            f"Unsafe answers are found by a judge. Name one: {KINDS[0]}, or a function of your "
            "own, written as module:function."
        )
    if not word.lower().startswith(_SCHEMES):
        _check_function(word, model, template)
        return Judge(FunctionJudge(word), cache)
    check_url(word)
    if not model:
        raise UsageError(f"The judge at {word} needs the name of a model.")
    if template is not None:
        check_template(template)
    if not timeout > 0 or retries < 0 or concurrency < 1:
        raise UsageError(
            f"A judge needs a time-out above 0, 0 or more retries and 1 or more requests at the "
            f"same time, not {timeout:g}, {retries} and {concurrency}."
        )
    rater = EndpointJudge(word, model, key_variable, timeout, retries, template, concurrency)
    return Judge(rater, cache)


def _check_function(word: str, model: str | None, template: str | None) -> None:
    parts_of(word, "judge", KINDS)
    if model is not None or template is not None:
        raise UsageError(
            f"The judge {word!r} is a function, which has neither a model nor a template. Leave "
            "them out, or name an endpoint."
        )
