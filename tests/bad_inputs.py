"""The table of `test_bad_inputs`: what a user may type wrongly, and what must be said then."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

NUMBER = "a whole number|a number|not a valid|valid integer|valid number|valid float"


@dataclass(frozen=True)
class Row:
    """A command line, its exit code, and what the message must say (a regular expression)."""

    line: str
    code: int
    says: str


DATA = "--train train.jsonl --eval eval.jsonl --task sft"
GRPO = "--train questions.jsonl --eval asked.jsonl --task grpo"
SCORE = "score model --data good.jsonl"

# --------------------------------------------------------------------------- records

READERS = {
    "place {}": "scores",
    "compare {} scores.json": "scores",
    "compare scores.json {}": "scores",
    f"verify {{}} {DATA}": "scores",
    f"verify {{}} {DATA} --plan": "scores",
    f"tune {{}} {DATA}": "scores",
    "import adapter --scores {}": "scores",
    "export {} -o out": "placement",
    "export {} --to axolotl -o out": "placement",
    "trial {}": "trial",
}
"""A command that reads a record → its kind."""
DAMAGES = {
    "absent.json": "No such file: absent.json.*plop",
    "nofolder/absent.json": "No such file: nofolder/absent.json.*plop",
    "empty.json": "empty.json is empty.*Make one with: plop",
    "text.json": "text.json is not complete JSON.*Make one with: plop",
    "binary.json": "binary.json is not complete JSON.*Make one with: plop",
    "list.json": "list.json is not a plop-lora record.*make one with: plop",
    "foreign.json": "foreign.json is not a plop-lora record.*make one with: plop",
    "comparison.json": "comparison.json is a 'comparison' record.*make one with: plop",
    "{kind}-newer.json": "schema_version 99.*pip install --upgrade plop-lora",
    "{kind}-torn.json": "torn.json is not complete JSON.*Make one with: plop",
    "{kind}-bare.json": "bare.json is a damaged '{kind}' record.*Make it again with: plop",
    "{kind}-zero.json": "schema_version 0",
    "{kind}-unversioned.json": "schema_version",
    "model": "model is a folder.*Make one with: plop",
}
"""A file that is no record → what is said of it; `{kind}` is that of the reader."""


def records() -> list[Row]:
    """Return every reader with every damaged file: one exit code for a fault, whoever meets it."""
    rows = []
    for (line, kind), (name, says) in itertools.product(READERS.items(), DAMAGES.items()):
        if line.startswith("export") and name == "model":
            continue  # the folder of an adapter is something that export takes
        wrong = name.format(kind=kind)
        rows.append(Row(line.format(wrong), 1, says.format(kind=kind)))
    return rows


# --------------------------------------------------------------------------- numbers

COUNTS = [
    (SCORE, "--samples"), (SCORE, "--max-length"), (SCORE, "--top"), ("place scores.json", "--top"),
    ("place scores.json", "--rank"), (f"verify scores.json {DATA}", "--rank"),
    (f"verify scores.json {DATA}", "--top"), (f"verify scores.json {DATA}", "--seeds"),
    (f"verify scores.json {DATA}", "--workers"), (f"tune scores.json {DATA}", "--trials"),
    (f"tune scores.json {DATA}", "--seeds"), (f"tune scores.json {DATA}", "--workers"),
    ("trial trial.json", "--batch-size"),
]  # fmt: skip
"""Options that take a whole number of 1 or more."""
AMOUNTS = [
    (SCORE, "--tolerance", ("-0.1", "nan", "inf", "much")),
    ("place scores.json", "--scaling", ("0", "-1", "nan", "inf", "big")),
    ("place scores.json", "--loraplus-ratio", ("0", "-1", "nan", "x")),
    ("place scores.json", "--dropout", ("-0.1", "1", "nan", "x")),
    (f"verify scores.json {DATA}", "--margin", ("-1", "nan", "x")),
    (f"verify scores.json {DATA}", "--price", ("-1", "inf", "x")),
    (f"tune scores.json {DATA}", "--hours", ("0", "-1", "nan", "x")),
    (f"tune scores.json {DATA}", "--price", ("-1", "nan", "x")),
]
"""Options that take a number of some range, with numbers outside of it."""


def numbers() -> list[Row]:
    """Return numbers out of range, and words where numbers belong."""
    rows = []
    for line, option in COUNTS:
        rows += [
            Row(f"{line} {option} {n}", 2, f"{option} (is )?{n}.*(give|must be) 1 or more")
            for n in (0, -3)
        ]
        rows += [Row(f"{line} {option} {w}", 2, f"{option}.*{w}.*--help") for w in ("few", "1.5")]
    for line, option, values in AMOUNTS:
        for value in values:
            number = _is_number(value)
            says = f"{option}:? (is )?'?{value}.*(give|must be)" if number else f"{option}.*{value}"
            rows.append(Row(f"{line} {option} {value}", 2, says))
    return rows


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# --------------------------------------------------------------------------- words

WORDS = [
    Row(f"{SCORE} --stop soon", 2, "no stop 'soon'.*adaptive, fixed"),
    Row(f"{SCORE} --engine gpu", 2, "no engine 'gpu'.*auto, memory, stream, ray"),
    Row(f"{SCORE} --engine steam", 2, "Did you mean 'stream'"),
    Row(f"{SCORE} --dtype int8", 2, "no dtype 'int8'.*float32"),
    Row(f"{SCORE} --dtype FLOAT32", 2, "no dtype 'FLOAT32'.*float32"),
    Row(f"{SCORE} --denominator montecarlo", 2, "Did you mean 'monte_carlo'"),
    Row(f"{SCORE} --baseline montecarlo", 2, "Did you mean 'monte_carlo'"),
    Row(f"{SCORE} --device 'GPU 0'", 2, "'GPU 0'.*cuda:1"),
    Row(f"{SCORE} --device cuda:x", 2, "'cuda:x'.*cuda:1"),
    Row(f"{SCORE} --format yaml", 2, "yaml.*table.*json.*quiet.*--help"),
    Row(f"{SCORE} --batch-size many", 2, "--batch-size many.*auto"),
    Row(f"{SCORE} --batch-size 0", 2, "--batch-size 0.*auto"),
    Row(f"{SCORE} --batch-size -1", 2, "--batch-size -1.*auto"),
    Row(f"{SCORE} --batch-size 1.5", 2, "--batch-size 1.5.*auto"),
    Row(f"{SCORE} --seed x", 2, "--seed.*x.*--help"),
    Row(f"{SCORE} --top 1000000", 2, "--top 1000000.*7 module types.*Give 1 to 7"),
    Row(f"{SCORE} --ray-address host:1", 2, "--ray-address needs --engine ray"),
    Row("place scores.json --strategy plopp", 2, "Did you mean 'plop'"),
    Row("place scores.json --strategy nothing", 2, "no strategy 'nothing'.*query-value"),
    Row("place scores.json --strategy custom", 2, "--types NAME.*q_proj"),
    Row("place scores.json --strategy custom --types q_prj", 2, "Did you mean 'q_proj'"),
    Row("place scores.json --strategy custom --types ,", 2, "--types NAME.*q_proj"),
    Row("place scores.json --types q_proj", 2, "--types needs --strategy custom"),
    Row("place scores.json --strategy mlp --top 2", 2, "--top has no meaning.*'mlp'"),
    Row("place scores.json --top 99", 2, "--top 99.*7 module types.*Give 1 to 7"),
    Row("place scores.json --init pisa", 2, "Did you mean 'pissa'"),
    Row("place scores.json --init 7", 2, "no init '7'.*Allowed"),
    Row("place scores.json --budget ten", 2, "budget 'ten'.*0.5%"),
    Row("place scores.json --budget -5M", 2, "budget '-5M'.*0.5%"),
    Row("place scores.json --budget 0", 2, "budget '0'.*0.5%"),
    Row("place scores.json --budget 0%", 2, "budget '0%'.*0.5%"),
    Row("place scores.json --budget 5", 2, "smallest that works is"),
    Row("place scores.json --budget 10M --rank 4", 2, "--rank or --budget, not both"),
    Row("place scores.json --budget ''", 2, "budget ''.*0.5%"),
    Row("place scores.json --budget 200%", 2, "'200%'.*such as 0.5%"),
    Row("place scores.json --layers a-b", 2, "layers 'a-b'.*0-11"),
    Row("place scores.json --layers 90", 2, "90.*layers 0 to"),
    Row("place scores.json --layers 5-2", 2, "layers '5-2'.*lower number first"),
    Row("place scores.json --layers ''", 2, "layers ''.*0-11"),
    Row("place scores.json --layers 0-99999999999", 2, "'0-99999999999'.*0-11"),
    Row("export placement.json --to axolotls -o out", 2, "Did you mean 'axolotl'"),
    Row("export placement.json --to PEFT -o out", 2, "'PEFT'.*peft"),
    Row("export placement.json --serve vlm -o out", 2, "'vlm'.*vllm"),
    Row("export placement.json --serve tgi -o out", 2, "'tgi'.*vllm"),
    Row("export adapter -o out", 2, "--to vllm"),
    Row("export placement.json --to vllm -o out", 2, "placement.json.*(folder|adapter)"),
    Row("export absent --to vllm -o out", 1, "absent does not exist"),
    Row(f"verify scores.json {DATA} --task stf", 2, "no task 'stf'. Did you mean 'sft'"),
    Row(
        f"verify scores.json {DATA} --runner slurm",
        2,
        "--runner: 'slurm' is unknown; allowed: local",
    ),
    Row(f"verify scores.json {DATA} --metric accurcy", 2, "'accurcy'.*Allowed for sft"),
    Row(f"verify scores.json {DATA} --metric accuracy", 2, "is for the task classify"),
    Row(
        f"verify scores.json {DATA} --metric lm-eval:",
        2,
        "followed by a task.*lm-eval:gsm8k",
    ),
    Row(f"verify scores.json {DATA} --arms atention", 2, "atention.*Did you mean 'attention'"),
    Row(
        f"verify scores.json {DATA} --arms absent.json",
        2,
        "'absent.json', and no such file.*file of",
    ),
    Row(f"verify scores.json {DATA} --budget ten", 2, "budget 'ten'.*0.5%"),
    Row(f"verify scores.json {DATA} --budget 1", 2, "smallest that works|below the"),
    Row(f"verify scores.json {DATA} --model ./nowhere", 1, "./nowhere is not there"),
    Row(f"verify scores.json {DATA} --folder good.jsonl", 2, "good.jsonl is a file.*--folder"),
    Row(f"verify scores.json {DATA} --folder model", 2, "model.*--folder"),
    Row(f"verify scores.json {GRPO}", 2, "needs rewards.*--rewards"),
    Row(f"verify scores.json {GRPO} --rewards none", 2, "none.*number"),
    Row(f"tune scores.json {DATA} --task stf", 2, "no task 'stf'. Did you mean 'sft'"),
    Row(
        f"tune scores.json {DATA} --runner slurm", 2, "--runner: 'slurm' is unknown; allowed: local"
    ),
    Row(f"tune scores.json {DATA} --metric accuracy", 2, "is for the task classify"),
    Row(f"tune scores.json {DATA} --budget ten", 2, "budget 'ten'.*0.5%"),
    Row(f"tune scores.json {DATA} --budget 1", 2, "below the shortlist.*--budget"),
    Row(f"tune scores.json {DATA} --model ./nowhere", 1, "./nowhere is not there"),
    Row("trial trial.json --report-to foo", 2, "no tracker 'foo'.*wandb"),
    Row("trial trial.json --report-to wandbb", 2, "Did you mean 'wandb'"),
    Row("import nowhere", 1, "No such file: nowhere.*adapter_config.json"),
    Row("import text.json", 1, "text.json.*JSON"),
    Row("import foreign.json", 1, "is not a PEFT adapter configuration"),
    Row("import model", 1, "No such file: model/adapter_config.json"),
    Row("import list.json", 1, "is not a PEFT adapter configuration"),
    Row("import prompt_tuning.json", 2, "method PROMPT_TUNING"),
    Row("import adapter --model ./nowhere", 1, "./nowhere is not there"),
]

# --------------------------------------------------------------------------- the line itself

LINE = [
    Row("scor", 2, "'scor'.*plop --help"),
    Row("--verbose", 2, "--verbose.*plop --help"),
    Row("score", 2, "MODEL.*plop score --help"),
    Row("score model", 2, "--data.*plop score --help"),
    Row("place", 2, "SCORES.*plop place --help"),
    Row("verify", 2, "SCORES.*plop verify --help"),
    Row("tune", 2, "SCORES.*plop tune --help"),
    Row("trial", 2, "SPEC.*plop trial --help"),
    Row("import", 2, "ADAPTER.*plop import --help"),
    Row("export", 2, "SOURCE|--output.*plop export --help"),
    Row("export placement.json", 2, "--output.*plop export --help"),
    Row("compare scores.json", 2, "SECOND.*plop compare --help"),
    *(
        Row(f"{verb} --no-such-option", 2, f"--no-such-option.*plop {verb} --help")
        for verb in ("score", "place", "verify", "tune", "trial", "import", "export", "compare")
    ),
    Row("demo --samples 3", 2, "--samples.*plop demo --help"),
    Row("place scores.json more.json", 2, "more.json.*plop place --help"),
    Row("compare scores.json scores.json scores.json", 2, "scores.json.*plop compare --help"),
    Row("score model --data", 2, "--data.*plop score --help"),
    Row(
        "score good.jsonl --data model",
        1,
        "good.jsonl is a data file.*plop score MODEL --data good.jsonl",
    ),
    Row("verify scores.json", 2, "--task is needed.*recipe that has task"),
    Row("verify scores.json --task sft", 2, "--train is needed.*recipe that has train"),
    Row(
        "verify scores.json --task sft --train train.jsonl",
        2,
        "--eval is needed.*recipe that has eval",
    ),
    Row("tune scores.json", 2, "--task is needed.*recipe that has task"),
    Row("tune scores.json --task sft", 2, "--train is needed.*recipe that has train"),
]

# --------------------------------------------------------------------------- outputs

WRITERS = [SCORE, "place scores.json", "compare scores.json scores.json", "import adapter",
           f"verify scores.json {DATA}", f"tune scores.json {DATA}"]  # fmt: skip


def outputs() -> list[Row]:
    """Return outputs that cannot be written, which every verb refuses before its work."""
    rows = []
    for line in WRITERS:
        rows += [
            Row(f"{line} -o model", 1, "Cannot write model: it is a folder"),
            Row(f"{line} -o /dev/null", 1, "not a plain file.*-o -"),
            Row(f"{line} -o good.jsonl/x.json", 1, "Cannot write good.jsonl/x.json.*-o"),
            Row(f"{line} -o", 2, "(-o|--output).*--help"),
        ]
    return [
        *rows,
        Row("export placement.json -o good.jsonl", 1, "Cannot write into good.jsonl.*-o"),
        Row("demo -o good.jsonl", 1, "Cannot write good.jsonl"),
    ]


# --------------------------------------------------------------------------- data

TEXTS = {
    "absent.jsonl": "No data at absent.jsonl",
    "god.jsonl": "Did you mean 'good.jsonl'",
    "nofolder/a.jsonl": "no folder nofolder",
    "./absent": "No data at",
    "model": "model is the folder of a model.*--data FILE",
    "empty.jsonl": "holds no rows",
    "blank.jsonl": "holds no rows",
    "torn.jsonl": "torn.jsonl, line 2, is not JSON",
    "values.jsonl": "line 1, is not an object",
    "latin1.jsonl": "line 1, is not UTF-8.*iconv",
    "utf16.jsonl": "not UTF-8|UTF-16",
    "cut.jsonl.gz": "cut.jsonl.gz",
    "nulls.jsonl": "has text",
    "spaces.jsonl": "has text",
    "empty.json": "holds no rows",
    "text.json": "text.json is not JSON",
    "bare.json": "bare value",
    "items.json": "item 1, is neither",
    "lists.json": "several lists",
    "empty.csv": "holds no rows",
    "header.csv": "holds no rows",
    "ragged.csv": "line 3, has more fields",
    "quote.csv": "not CSV",
    "text.parquet": "not a Parquet file",
    "empty.txt": "holds no rows",
    "letter.docx": ".docx is not one of",
    "noending": "no suffix is not one of",
    "a:b:c:d": "name:config:split",
    "nobody/nothing": "No data set 'nobody/nothing'",
}
"""Data → what is said of them, by whatever reads them."""


def data() -> list[Row]:
    """Return faults of data for scoring, and the same faults for training."""
    rows = [Row(f"score model --data {name}", 1, says) for name, says in TEXTS.items()]
    trained = ("absent.jsonl", "empty.jsonl", "torn.jsonl", "letter.docx", "latin1.jsonl", "model")
    for verb, name in itertools.product(("verify", "tune"), trained):
        line = f"{verb} scores.json --task sft --train {name} --eval eval.jsonl"
        rows.append(Row(line, 1, TEXTS[name]))
    return [
        *rows,
        Row("score model --data fields.jsonl", 1, "has: one, two.*--text"),
        Row("score model --data good.jsonl --text txt", 1, "no field 'txt'.*Did you mean 'text'"),
        Row("score model --data nested.jsonl --text inner", 1, "row 1.*dict, not text"),
        Row("score model --data good.jsonl --group nope", 1, "no field 'nope'"),
        Row("score model --data good.jsonl --group text --samples 4", 2, "--group makes"),
        Row("score model --data good.jsonl --text text --template '{text}'", 2, "not both"),
        Row("score model --data good.jsonl --template plain", 2, "names no field"),
        Row("score model --data good.jsonl --template '{te'", 2, "Cannot read the template"),
        Row("score model --data good.jsonl --template '{}'", 2, "names no field"),
        Row("score model --data good.jsonl --template '{other}'", 1, "no field 'other'"),
        Row("score model --data chat.jsonl --text messages", 1, "messages|role"),
        Row(f"verify scores.json {DATA} --train few.jsonl", 1, "few.jsonl leaves|at least"),
        Row(f"verify scores.json {DATA} --eval few.jsonl", 1, "few.jsonl has 3 different rows"),
        Row(f"verify scores.json {DATA} --eval train.jsonl", 1, "is also in train.jsonl"),
        Row(f"verify scores.json {DATA} --text nope", 1, "nope"),
        Row(f"verify scores.json {DATA} --prompt '{{nope}}' --completion '{{text}}'", 1, "nope"),
        Row(f"verify scores.json {DATA} --task classify", 1, "label"),
        Row(
            f"verify scores.json {DATA} --train labels.jsonl --eval labels.jsonl --task classify",
            1,
            "are no classes",
        ),
    ]


# --------------------------------------------------------------------------- models

MODELS = [
    Row("score ./nowhere --data good.jsonl", 1, "./nowhere is not there.*config.json"),
    Row("score ./modle --data good.jsonl", 1, "Did you mean 'model'"),
    Row("score ./good.jsonl --data good.jsonl", 1, "./good.jsonl is a data file"),
    Row("score nobody/nothing --data good.jsonl", 1, "No (model|tokenizer) 'nobody/nothing'"),
    Row("score hollow --data good.jsonl", 1, "hollow.*config.json"),
    Row("score adapter --data good.jsonl", 1, "adapter.*(base model|config.json)"),
]

# --------------------------------------------------------------------------- recipes

RECIPES = {
    "absent.yaml": "Cannot read the recipe absent.yaml",
    "model": "The recipe model is a folder",
    "torn.yaml": r"torn.yaml, line \d, is not valid YAML",
    "twice.yaml": "twice.yaml, line 4.*'train' occurs twice",
    "list.yaml": "no keys with values, such as task: sft, but a list",
    "binary.json": "binary.json is not (UTF-8|YAML)",
    "unknown.yaml": "sedes: there is no such key. Did you mean 'seeds'",
    "task.yaml": "no task 'stf'. Did you mean 'sft'",
    "seed.yaml": "seed is -1; it must be 0 or more",
    "seeds.yaml": "seeds must be a whole number, and is 'many'",
    "epochs.yaml": "epochs is 0; it must be above 0",
    "inner.yaml": "training.epoch: there is no such key. Did you mean 'epochs'",
    "section.yaml": "training must be a section of keys with values, and is 3",
    "budget.yaml": "budget",
    "tracker.yaml": "report_to: 'foo' is unknown; allowed: trackio",
    "infinite.yaml": "price.hourly is inf; it must be a finite number",
    "selection.yaml": "selection is 0.7; it must be below 0.5",
}


def recipes() -> list[Row]:
    """Return faults of a recipe, which `verify` and `tune` tell alike."""
    rows = [
        Row(f"{verb} scores.json --recipe {name}", 2, says)
        for verb, (name, says) in itertools.product(("verify", "tune"), RECIPES.items())
    ]
    return [
        *rows,
        Row("verify scores.json --recipe good.yaml --seeds 0", 2, "--seeds is 0"),
        Row("tune scores.json --recipe good.yaml --trials 0", 2, "--trials is 0; it must be"),
        Row("verify scores.json --recipe good.yaml --task x", 2, "no task 'x'. Allowed: sft"),
    ]


ROWS = [*LINE, *WORDS, *numbers(), *records(), *outputs(), *data(), *MODELS, *recipes()]
