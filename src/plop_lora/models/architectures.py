"""Facts about architectures that can be read neither from the model nor from transformers.

Types, blocks and experts are read from the loaded model, so a new family needs no row here. What
remains are naming conventions: the words that indicate the role of a class or module, the names of
fused projections, whose rows the model does not describe, and single classes that lack a
description that similar classes have. Each row lists the families it applies to, by their
`model_type` in transformers.

Imports the standard library only. The names that a trainer or a server uses for the parts of a
model are in the file of that trainer or server.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

ATTENTION = frozenset({"attn", "attention", "attentions", "selfattention", "mha"})
"""Whole words in the names of modules and classes that compute attention."""
STATE_MIXERS = frozenset({"mamba", "ssm", "recurrent", "rglru", "lstm", "mlstm", "slstm"})
"""Whole words in the names of modules that mix tokens by a state: neither attention nor an MLP."""
TOWERS = frozenset({"vision", "audio"})
"""Names of the sub-configurations of vision and audio parts."""
SENSED_INPUTS = frozenset({"pixel_values", "input_features", "input_values"})
"""Main inputs of vision and audio models."""

QUERY_OR_VALUE = re.compile(r"(q|query|v|value)(_proj|_lin)?")
"""Query and value projections: LLaMA's `q_proj`, BERT's `query`, DistilBERT's `q_lin`."""
HOLDS_QUERY_AND_VALUE = re.compile(r"(.*qkv.*|query_key_value|c_attn)", re.IGNORECASE)
"""Fused projections that hold the query and the value."""

PROJECTIONS = {
    "value": re.compile(r"(v|value)(_proj|_lin)?|(.*qkv.*|query_key_value|c_attn)"),
    "output": re.compile(r"(o|out|output)(_proj|_lin)?|(attention\.)?(output\.)?dense|c_proj|wo"),
    "up": re.compile(
        r"(up|gate_up)(_proj)?|fc1|fc_in|c_fc|dense_h_to_4h|lin1|w3|wi(_1)?|Wi|intermediate\.dense"
    ),
    "down": re.compile(r"down(_proj)?|fc2|fc_out|c_proj|dense_4h_to_h|lin2|w2|wo|Wo|output\.dense"),
}
"""What a projection of a block does, by the names of its type: value and output of the attention,
the first weight of the MLP (not its gate) and the last one. The first two count in the attention
and the others in the MLP. Read in llama, gemma3, gpt2, gpt_neox, opt, bert, distilbert, t5, phi3,
modernbert and mixtral."""

UNUSED_PARTS = ("pooler", "masked_spec_embed", "mask_token")
"""Parts of a body that scoring does not run: BERT's pooler, and embeddings that mask an input."""
OLD_BUFFERS = ("inv_freq", "masked_bias", "position_ids", "relative_position_index")
"""Buffers that older releases of transformers saved: rotary frequencies, causal masks, tables of
positions. They are ignored in a checkpoint."""


class RowLayout(enum.StrEnum):
    """How the rows of a fused projection are divided.

    The sizes come from the module that owns the projection; `scoring.sites.fused` reads them.
    """

    concatenated_qkv = "q, then k, then v"
    qkv_by_head = "q, k and v of each head, or of each group of heads"
    gated_query = "the query of each head, then its output gate"
    latent_down = "the latent of key and value, then the rotary key that all heads share"
    latent_up = "the key without rotary position of each head, then its value"
    linear_qkv = "q, k and v of linear attention"
    linear_qkvz = "q, k, v and the output gate z of each key head of linear attention"
    linear_ba = "the write strength b and the decay a of each key head of linear attention"
    state_space = "gate z, input x, B and C of the state, step sizes dt"
    halves = "two halves of one size, whose product goes through a partner"


@dataclass(frozen=True, slots=True)
class FusedProjection:
    """A linear layer that computes several projections in one product.

    Attributes:
        leaf: Name of the layer in the module that owns it.
        layout: Layout of its rows.
        families: Families in which this layout was verified.
        halves: Names of the two halves, in the order of their rows.
        partner: Layer of the same module whose input is as wide as one of the halves.
    """

    leaf: str
    layout: RowLayout
    families: tuple[str, ...]
    halves: tuple[str, str] = ("", "")
    partner: str = ""


FUSED_PROJECTIONS: dict[str, FusedProjection] = {
    row.leaf: row
    for row in (
        FusedProjection("Wqkv", RowLayout.concatenated_qkv, ("modernbert", "dbrx", "mpt")),
        FusedProjection(
            "c_attn", RowLayout.concatenated_qkv, ("gpt2", "gpt_bigcode", "imagegpt", "openai-gpt")
        ),
        FusedProjection("qkv", RowLayout.concatenated_qkv, ("qwen2_vl", "qwen2_5_vl", "blip")),
        FusedProjection("qkv_proj", RowLayout.concatenated_qkv, ("phi3", "phi4_multimodal")),
        FusedProjection(
            "query_key_value", RowLayout.qkv_by_head, ("gpt_neox", "bloom", "falcon", "persimmon")
        ),
        FusedProjection("q_proj", RowLayout.gated_query, ("qwen3_next", "qwen3_5")),
        FusedProjection(
            "kv_a_proj_with_mqa", RowLayout.latent_down, ("deepseek_v2", "deepseek_v3", "minicpm3")
        ),
        FusedProjection(
            "kv_b_proj", RowLayout.latent_up, ("deepseek_v2", "deepseek_v3", "minicpm3")
        ),
        FusedProjection("in_proj_qkv", RowLayout.linear_qkv, ("qwen3_5",)),
        FusedProjection("in_proj_qkvz", RowLayout.linear_qkvz, ("qwen3_next",)),
        FusedProjection("in_proj_ba", RowLayout.linear_ba, ("qwen3_next",)),
        FusedProjection(
            "in_proj",
            RowLayout.state_space,
            ("mamba2", "falcon_h1", "nemotron_h", "granitemoehybrid"),
        ),
        FusedProjection("Wi", RowLayout.halves, ("modernbert",), ("input", "gate"), "Wo"),
        FusedProjection(
            "gate_up_proj", RowLayout.halves, ("phi3", "glm", "glm4"), ("gate", "up"), "down_proj"
        ),
        FusedProjection(
            "input_linear",
            RowLayout.halves,
            ("granitemoehybrid", "granitemoeshared"),
            ("gate", "up"),
            "output_linear",
        ),
    )
}
"""Name of a fused projection → its layout. Stacked experts are not listed, as their modules have
attributes that describe the layout.

A name alone is not sufficient: most projections called `q_proj` hold only a query. The layout is
used only if its sizes add up to the number of rows of the weight.
"""


@dataclass(frozen=True, slots=True)
class StackedExperts:
    """A class that holds its experts in two parameters, without the attributes that describe them.

    Attributes:
        module: Module of transformers that defines the class.
        name: Name of the class.
        parameters: Names of the two parameters, in the order in which they are applied.
        transposed: Whether a parameter is [expert, in, out].
        interleaved: Whether the rows of gate and up alternate.
        gated: Whether the first parameter holds gate and up.
    """

    module: str
    name: str
    parameters: tuple[str, str]
    transposed: bool
    interleaved: bool
    gated: bool


LLAMA4_EXPERTS = StackedExperts(
    module="transformers.models.llama4.modeling_llama4",
    name="Llama4TextExperts",
    parameters=("gate_up_proj", "down_proj"),
    transposed=True,
    interleaved=False,
    gated=True,
)
"""Llama 4's experts have a forward of their own, which predates transformers' experts interface."""
