"""A task of the user's own, in one object: every word of a text gets a tag, here its sentiment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plop_lora.errors import DataError, ModelError
from plop_lora.evaluation.judged import Judged, Prepared, Row
from plop_lora.recipe import DataRecipe
from plop_lora.records import TrialSpec
from plop_lora.records.scores import ModelReference
from plop_lora.training.readers import Reader, known_field
from plop_lora.training.task import Loading, ModelClass, Session, Task, Trained

TAGS = ("neutral", "good", "bad")


def reader(data: DataRecipe, fields: Sequence[str], source: str) -> Reader:
    words, tags = (known_field(name, fields, source) for name in ("words", "tags"))

    def read(row: Row) -> dict[str, Any]:
        if len(row[words]) != len(row[tags]):
            raise DataError(f"{len(row[words])} words have {len(row[tags])} tags")
        return {"words": row[words], "tags": row[tags]}

    return Reader(read, (words, tags), whole=True)


def encoded(row: Row, tokenizer: Any) -> Any:
    return tokenizer(row["words"], is_split_into_words=True, return_tensors="pt")


def labels_of(row: Row, tokens: Any) -> list[int]:
    return [TAGS.index(row["tags"][word]) for word in tokens.word_ids()]


def model_class(loading: Loading) -> ModelClass:
    import transformers

    options = {"num_labels": len(TAGS)}
    return ModelClass(transformers.AutoModelForTokenClassification, options, trains_head=True)


def check_model(task: str, model: ModelReference) -> None:
    if model.task_type == "SEQ_2_SEQ_LM":
        raise ModelError(f"{model.name} has a decoder, and {task} tags what an encoder reads.")


def train(spec: TrialSpec, prepared: Prepared, rows: Sequence[Row], session: Session) -> Trained:
    import torch

    model = prepared.model.train()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=spec.learning_rate)
    tokens, log = 0, {}
    for step in range(spec.training.steps or len(rows)):
        row = rows[step % len(rows)]
        inputs = encoded(row, prepared.tokenizer)
        labels = torch.tensor([labels_of(row, inputs)])
        loss = model(**inputs, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        tokens += labels.numel()
        log = {"step": step + 1, "loss": loss.item()}
        session.log(log)
    return Trained(tokens, step + 1, log)


def judge(
    spec: TrialSpec, prepared: Prepared, rows: Sequence[Row], *, general: Sequence[Row] = ()
) -> Judged:
    import torch

    hits, losses = [], []
    prepared.model.eval()
    for row in rows:
        inputs = encoded(row, prepared.tokenizer)
        labels = torch.tensor(labels_of(row, inputs))
        with torch.no_grad():
            logits = prepared.model(**inputs).logits[0]
        losses.append(float(torch.nn.functional.cross_entropy(logits, labels)))
        hits.append(float((logits.argmax(-1) == labels).float().mean()))
    return Judged.of({"tags": tuple(hits), "loss": tuple(losses)})


TAGGING = Task(
    name="tagging",
    columns=(("words", "tags"),),
    reserved=("words", "tags"),
    reader=reader,
    tokens=lambda row, tokenizer: encoded(row, tokenizer)["input_ids"][0].tolist(),
    model_class=model_class,
    check_model=check_model,
    train=train,
    judge=judge,
    metrics=("tags", "loss"),
    full_rate=5e-5,
    question=lambda row: " ".join(row["words"]),
    answer=lambda row: " ".join(row["tags"]),
    packages=("torch", "transformers", "peft"),
)
