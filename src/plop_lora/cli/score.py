"""`plop score`: a model and data in, scores out."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from plop_lora.cli.output import (
    ForceOption,
    Format,
    FormatOption,
    OutputOption,
    check,
    finish,
    waiting,
)
from plop_lora.errors import UsageError
from plop_lora.lines import STDIN
from plop_lora.models.folders import check_reach, expanded, model_name
from plop_lora.models.origin import Origin
from plop_lora.reading import open_rows


def score(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Hub id or local folder.")],
    data: Annotated[
        str,
        typer.Option(
            help="A .jsonl .json .csv .tsv .parquet .txt file, also as .gz; - for standard input; "
            "a folder of save_to_disk; or name:config:split of the hub."
        ),
    ],
    output: OutputOption = None,
    text: Annotated[str | None, typer.Option(help="Field that holds the text.")] = None,
    template: Annotated[
        str | None, typer.Option(help='Fields in braces: "{question}\\n{answer}".')
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="Field whose values all get their share of the texts.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Texts to draw; about 200 is plenty.")] = 200,
    max_length: Annotated[int, typer.Option(help="Tokens kept of each text.")] = 512,
    batch_size: Annotated[str, typer.Option(help="Texts a batch, or auto.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of the sample and of the baseline.")] = 0,
    include: Annotated[
        list[str] | None, typer.Option(help="Only modules or types that match; repeatable.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Leave out modules or types; repeatable.")
    ] = None,
    baseline: Annotated[str, typer.Option(help="analytic or monte_carlo.")] = "analytic",
    stop: Annotated[
        str, typer.Option(help="adaptive ends when the choice is known; fixed scores all.")
    ] = "adaptive",
    tolerance: Annotated[
        float, typer.Option(help="How much better, in NFN, a type left out may be.")
    ] = 0.03,
    top: Annotated[int, typer.Option(help="Types of the choice that has to be known.")] = 3,
    engine: Annotated[
        str, typer.Option(help="auto, memory, stream (block by block from disk), ray.")
    ] = "auto",
    ray_address: Annotated[
        str | None, typer.Option(help="Of a running Ray cluster, instead of RAY_ADDRESS.")
    ] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Compute the baseline of every weight anew.")
    ] = False,
    force: ForceOption = False,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of the model on the hub.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Hub id or folder of a tokenizer that lies elsewhere.")
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(help="Access token of the hub, never recorded; HF_TOKEN works as well."),
    ] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code", help="Run the Python code that lies beside the weights."
        ),
    ] = False,
    form: FormatOption = Format.table,
) -> None:
    """Score every module type of MODEL on unlabelled DATA, with forward passes only."""
    processes = context.obj
    if processes is None or processes.first:
        check(output, data, force=force)
    size = _batch_size(batch_size)
    model = _found(model, revision, data, processes)
    from plop_lora.documents import load_documents
    from plop_lora.scoring import score as run
    from plop_lora.scoring.inputs import chat_of

    origin = Origin(revision, trust_remote_code, token)
    with waiting(f"loading the tokenizer of {model} and {data}", form):
        loaded = _tokenizer(model, tokenizer, origin)
        documents = load_documents(
            data,
            text=text,
            template=None if template is None else template.replace("\\n", "\n"),
            chat=chat_of(loaded),
            group=group,
            samples=samples,
            seed=seed,
            token=token,
        )
    scores = run(
        model,
        loaded,
        documents,
        max_length=max_length,
        batch_size=size,
        device=device,
        dtype=dtype,
        seed=seed,
        include=include or (),
        exclude=exclude or (),
        baseline=baseline,
        stop=stop,
        tolerance=tolerance,
        top=top,
        engine=engine,
        ray_address=ray_address,
        cache=not no_cache,
        revision=revision,
        token=token,
        trust_remote_code=trust_remote_code,
        processes=processes,
        progress=form is not Format.quiet,
    )
    if processes is None or processes.first:
        finish(scores, output, form)


def _batch_size(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"--batch-size {text} is not possible; give auto or 1 and more.")
    return int(text)


def _found(model: str, revision: str | None, data: str, processes: Any) -> str:
    """Return the name to load the model by; what is not there is told before torch is loaded."""
    if data == STDIN and processes is not None:
        raise UsageError(
            "--data - can be read by one process only, and a launcher started several. Give a file."
        )
    name = model_name(model)
    open_rows(data)
    check_reach(name, "model", revision)
    return name


def _tokenizer(model: str, tokenizer: str | None, origin: Origin) -> Any:
    """Load the tokenizer of a model, or another one that was named."""
    from plop_lora.scoring.loading import load_tokenizer, quiet_loading

    quiet_loading()
    if tokenizer is not None:
        return load_tokenizer(expanded(tokenizer), origin.elsewhere())
    return load_tokenizer(model, origin)
