"""What a recipe says of a run of the whole pipeline."""

from __future__ import annotations

from pydantic import Field, field_validator

from plop_lora.recipe.section import Recipe, Section, one_of

VERIFY, TUNE = PROOFS = ("verify", "tune")
OWN_TRAINER = "plop"


class RunSettings(Section):
    """How the stages are put together: the keys of the section `run` of a recipe."""

    proof: str = Field(
        VERIFY,
        description="How the shortlist is put to the proof: by finetunes of rival placements "
        "(verify), or by a search of placement, rank, initialisation and rate (tune).",
    )
    samples: int = Field(
        200, ge=1, description="The largest number of training rows that are scored."
    )
    trainer: str = Field(
        OWN_TRAINER,
        description="What trains the adapter that ships: plop, or the name of a trainer that `plop "
        "export` knows. Then the run writes its configuration and waits for the adapter.",
    )
    adapter: str | None = Field(
        None,
        description="The folder of an adapter that you have trained yourself, with which the run "
        "goes on at the gate.",
    )
    export: tuple[str, ...] = Field(
        ("peft",),
        description="The trainers for which the placement is written out at the end; vllm folds "
        "the trained adapter for serving.",
    )
    arm: str | None = Field(
        None,
        description="The arm of the section ab that gets the adapter of this run, with the verdict "
        "of its gate. If the gate passes, the run writes the file of the A/B test.",
    )

    @field_validator("proof")
    @classmethod
    def _known_proof(cls, proof: str) -> str:
        return one_of(proof, PROOFS)


class RunKeys(Recipe):
    """The keys of a recipe that only `plop run` reads."""

    run: RunSettings = Field(
        default_factory=lambda: RunSettings.model_validate({}),
        description="How the stages of a run are put together; the keys are listed below.",
    )
