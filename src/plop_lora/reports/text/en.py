"""The words of a report in English, under the same keys as in the other language."""

TEXT: dict[str, str] = {
    "list.separator": ", ",
    "percent": "{number} %",
    "interval": "{low} to {high}",
    "seconds": "{number} s",
    "minutes": "{minutes} min {seconds} s",
    "hours": "{hours} h {minutes} min",
    "failed": "failed",
    "untrained": "not trained",
    "undecided": "undecided",
    "word.decided": "decided",
    "word.undecided, score more data": "undecided, score more data",
    "word.tie": "tie",
    "word.not decided by scores": "not decided by scores",
    "word.confirmed": "confirmed",
    "word.beaten": "beaten",
    "word.cannot separate": "cannot separate",
    "word.shortlist": "shortlist",
    "word.non-inferior": "non-inferior",
    "word.better than shortlist": "better than shortlist",
    "word.worse": "worse",
    "word.failed": "failed",
    "word.not settled": "not settled",
    "word.screened out": "screened out",
    "word.improved": "improved",
    "word.default stands": "default stands",
    "word.unconfirmed": "unconfirmed",
    "word.reference": "reference",
    "word.better than base": "better than base",
    "word.worse than base": "worse than base",
    "word.done": "done",
    "word.reused": "taken from before",
    "word.open": "open",
    "word.partly done": "partly done",
    "word.gate failed": "gate failed",
    "word.undecided": "undecided",
    "word.better": "better",
    "word.not worse": "not worse",
    "word.pass": "pass",
    "word.fail": "fail",
    "word.not enough data": "not enough data",
    "word.harm": "harm",
    "word.void": "void",
    "word.guardrail": "guardrail",
    "word.primary": "primary",
    "word.other": "other",
    "word.sequential": "sequential",
    "word.fixed": "fixed",
    "word.ship": "ship",
    "word.stop": "stop",
    "word.continue": "continue",
    "word.sample ratio mismatch": "sample ratio mismatch",
    "word.no improvement shown": "no improvement shown",
    "word.not decided yet": "not decided yet",
    "tone.good": "Good",
    "tone.bad": "Problem",
    "tone.open": "Open",
    "tone.plain": "Note",
    "page.title": "LoRA placement for {name}",
    "page.title.plain": "LoRA report",
    "page.facts": "Key facts",
    "page.contents": "Contents",
    "page.data": "Data of this figure",
    "page.notes": "Notes in the record",
    "page.downloads": "Downloads",
    "page.commands": "Commands",
    "page.table": "Table: {caption}",
    "page.static": "The figures need JavaScript. Every figure is also a table below it.",
    "page.made": "Made by plop-lora {version}. This page loads nothing from a network.",
    "warning.stranger": "The {kind} record was not made from the scores on this page.",
    "question.task": (
        "Where should LoRA adapters of {name} go for the task {task}, judged by {metric}?"
    ),
    "question.data": "Where should LoRA adapters of {name} go for data like {data}?",
    "question.model": "Where should LoRA adapters of {name} go?",
    "question.gate": "May the adapter {adapter} ship?",
    "question.finetune": (
        "Is the adapter of {name} better than the base for the task {task}, judged by {metric}?"
    ),
    "question.experiment": "What does the experiment {name} show?",
    "answer.gated": "{gate} {answer}",
    "answer.placement": "Put the adapters on {types}; no finetune has verified this yet.",
    "answer.scores": "The lowest scores are those of {types}; no placement was made yet.",
    "answer.confirmed": (
        "Put the adapters on {types}: small finetunes confirmed that no rival is better by "
        "more than the margin."
    ),
    "answer.open": (
        "The adapters on {types} are neither confirmed nor beaten: the finetunes do not "
        "separate the rivals."
    ),
    "answer.finetune.improved": (
        "The adapter is better than the base on rows that it was not trained on, by {metric}; no "
        "gate has judged it on this page."
    ),
    "answer.finetune.worse": (
        "The adapter is worse than the base on rows that it was not trained on, by {metric}."
    ),
    "answer.finetune.inconclusive": (
        "The adapter and the base cannot be told apart on rows that it was not trained on, by "
        "{metric}."
    ),
    "answer.run": "The run has not come to an answer yet.",
    "answer.ship": "Ship the arm {arm}.",
    "answer.stop": "Stop the experiment: no arm may ship.",
    "answer.continue": "Continue the experiment: it is not decided yet.",
    "fact.scores": "Choice by scores",
    "fact.verified": "Verified by finetunes",
    "fact.quick": (
        "a smoke test: it shows that everything runs, and not which placement is better"
    ),
    "fact.rivals": "against {rivals} rivals with as many parameters, on {rows} rows",
    "fact.chance": "Against types drawn at random",
    "fact.chance.value": "no difference shown",
    "fact.chance.detail": (
        "they do as well within the margin, so on these rows it matters little where the "
        "adapters are"
    ),
    "fact.gain": "Gain over the best rival, {rival}",
    "fact.between": "lies between the bounds {bounds}; above 0 the shortlist is better",
    "fact.before": "Before and after the finetune",
    "fact.before.detail": "{metric} of the {name}, and of the shortlist",
    "fact.size": "Size of the adapters",
    "fact.share": "trainable parameters, {share} of the model",
    "fact.gate": "Gate",
    "fact.experiment": "Experiment",
    "fact.cost": "Measured cost",
    "fact.cost.scores": "scoring alone, with forward passes only",
    "fact.cost.detail": "device time of {trials} trials on {device}; money: {money}",
    "fact.search": "A full search would have cost",
    "fact.search.detail": "estimate for {trials} trials that were not run; money: {money}",
    "certainty.decided": "the intervals separate the chosen types from the others",
    "certainty.undecided": "these texts do not separate the chosen types from the others",
    "certainty.tie": "no other type is better by more than the tolerance",
    "certainty.unscored": "the types were chosen without scores",
    "group.chosen": "gets adapters",
    "group.left": "left out",
    "group.never": "never proposed",
    "group.shortlist": "shortlist",
    "group.rival": "rival",
    "group.full": "{arm}, all rows",
    "direction.higher": "higher is better",
    "direction.lower": "lower is better",
    "scores.title": "Scores",
    "scores.read": (
        "NFN compares how strongly a weight responds to the data with how strongly it "
        "responds to noise of the same norm. Near 1 there is room to adapt, so the lowest "
        "types get adapters; they are marked with ✓."
    ),
    "scores.sample": (
        "{sequences} texts with {tokens} tokens; {share} of the block parameters were measured."
    ),
    "scores.reference.same": (
        "On other inputs ({name}) the same types are lowest: the choice says more about the "
        "model than about these data."
    ),
    "scores.reference.other": (
        "On other inputs ({name}) other types are lowest: {types}. The choice depends on the data."
    ),
    "scores.reference.near": (
        "On other inputs ({name}) other types are lowest: {types}. The types exchanged differ by "
        "{margin} NFN, within the tolerance, so this is no effect of the data."
    ),
    "scores.reference.share": (
        "The texts explain {share} of the ranking of {weights} weights, whose rank correlation "
        "with those inputs is {correlation} (95 % interval over weights: {interval})."
    ),
    "scores.map.title": "NFN by layer and module type",
    "scores.map.colour": "NFN; the stronger the colour, the lower",
    "scores.map.alt": (
        "Heat map of {layers} layers and {types} module types, lowest mean first; the lowest "
        "is {lowest}."
    ),
    "scores.ranking.title": "Module types by NFN with 95 % intervals",
    "scores.ranking.alt": "Mean NFN of each module type, from the lowest: {order}.",
    "scores.settling.title": "How the scores settled as texts were added",
    "scores.settling.alt": "Mean NFN of each module type after {first} to {last} texts.",
    "placement.title": "Placement",
    "placement.table": "Chosen module types",
    "placement.sum": (
        "{adapters} adapters with {parameters} "
        "trainable parameters, {share} of the "
        "model; B·A is multiplied by {scaling}."
    ),
    "placement.decided": (
        "The data separate every chosen type from the nearest type that was left out."
    ),
    "placement.undecided": (
        "The data do not separate every chosen type from the nearest type that was left out; "
        "more texts may change the choice."
    ),
    "placement.tie": (
        "Where the order is open, the type that was left out is not better by more than the "
        "tolerance."
    ),
    "placement.unscored": "The strategy does not choose by scores.",
    "placement.forced": "Adapted only as slices of a fused weight: {types}.",
    "explorer.title": "Other budgets",
    "explorer.read": (
        "Move the slider, or type a number of trainable parameters. The ranks follow by the "
        "rule of plop place --budget."
    ),
    "explorer.budget": "Budget in parameters",
    "explorer.slider": "Budget, from the smallest to the largest",
    "explorer.used": "Used:",
    "explorer.small": "The smallest budget that works is",
    "explorer.whole": "Give a whole number.",
    "explorer.static": "Without JavaScript, use this command with a budget of your own:",
    "download.placement": "the placement as a record of plop-lora",
    "download.trainer": "for {name}; plop export --to {name} also checks it against the library",
    "verification.title": "Verification by finetunes",
    "verification.quick": (
        "This was a smoke test: two seeds show that it runs, not which placement is better."
    ),
    "verification.confirmed": (
        "{shortlist} is best, or no more than {margin} {metric} behind any rival, at the "
        "same number of parameters."
    ),
    "verification.beaten": (
        "{better} is better than {shortlist} by more than {margin} {metric}, at the same "
        "number of parameters."
    ),
    "verification.inconclusive": (
        "These trials neither show that {shortlist} is within {margin} {metric} of every "
        "rival nor that one of them is better by more."
    ),
    "verification.design": (
        "{metric} on {rows} rows that were neither trained nor selected on; {direction}. "
        "Every arm has at most {budget} parameters, {train} training rows and {seeds} seeds."
    ),
    "verification.bounds": (
        "A difference above 0 favours {shortlist}. A rival is better where both bounds lie "
        "below -{margin}; {shortlist} is not worse where both lie above it."
    ),
    "verification.predictive": (
        "NFN and outcome over {arms} arms: Spearman's rho {rho}; below 0 a lower NFN went "
        "with a better outcome."
    ),
    "verification.forest.title": "Difference to each rival; above 0 {shortlist} is better",
    "verification.forest.alt": (
        "Differences with their bounds to {arms}; the dashed line is the margin of -{margin}."
    ),
    "verification.seeds.title": "Every seed of every arm, and when the arm was settled",
    "verification.seeds.alt": "{metric} of {arms} arms, a point for each seed.",
    "verification.rates.title": "Learning rates that were tried",
    "verification.rates.alt": (
        "{metric} by learning rate on the rows for selection, in {lines} lines; those of "
        "trials on all rows stand apart."
    ),
    "verification.arms": "Arms and what is reached without a finetune",
    "verification.forgetting": "Rise of the loss on general text ({source}), in nats a token",
    "curves.title": "Learning curves: {quantity} by step, a line for each seed",
    "curves.alt": "{quantity} by optimizer step of the arms {arms}, each in a drawing of its own.",
    "curves.none": "This record holds no learning curves; earlier versions did not record them.",
    "curves.training": "{quantity} in training",
    "curves.selection": "loss on the selection rows",
    "curves.final.title": "Learning curve",
    "curves.final.alt": "Losses by optimizer step, of {steps} steps, in {points} points.",
    "quantity.loss": "loss",
    "quantity.reward": "reward",
    "tuning.title": "Tuning",
    "tuning.improved": "{chosen} is better than the default, {default}.",
    "tuning.stands": "No candidate is shown to be better than the default, {default}.",
    "tuning.inconclusive": (
        "The trials do not decide between the candidates and the default, {default}."
    ),
    "tuning.unconfirmed": "{chosen} is the best of the search; no new seeds have confirmed it.",
    "tuning.design": (
        "{trials} suggestions of the search, judged by {metric}, with at most {budget} "
        "parameters; the confirmation is judged on {rows} rows of its own."
    ),
    "tuning.search.title": "The course of the search",
    "tuning.search.alt": "{metric} of {trials} trials in their order, by placement.",
    "tuning.confirmation.title": "Advantage over the default, {default}",
    "tuning.confirmation.alt": (
        "Advantage of {candidates} candidates over the default with simultaneous 95 % intervals."
    ),
    "tuning.candidates": "Candidates on new seeds, by {metric}",
    "gate.title": "Gate of {adapter}",
    "gate.pass": "The adapter may ship: it passes all of {total} checks.",
    "gate.fail": "The adapter must not ship: of {total} checks it does not pass {checks}.",
    "gate.open": (
        "There is not enough data to decide: of {total} checks it does not pass {checks}."
    ),
    "gate.against": "Compared with {base} on the same items; bounds are one-sided.",
    "gate.evidence": (
        "The values of every item, and the answers where there are any, are in {path}."
    ),
    "gate.answers": (
        "The answers to the items below are left out; plop report --answers shows them."
    ),
    "gate.unkept": "The evidence of this gate was not kept, so that its answers are not known.",
    "gate.worst": "Items of the check {check}{part} that went worst",
    "gate.empty": "(no text)",
    "gate.checks": "Checks",
    "gate.parts": "Parts of the check {check}",
    "walk.title": "Checkpoints of the run",
    "walk.read": "{gated} of {total} checkpoints were gated, the last first.",
    "finetune.title": "The adapter that ships",
    "finetune.line": (
        "{parameters} parameters, learning rate {rate}, {steps} of {planned} steps on {rows} "
        "training rows."
    ),
    "finetune.best": "The adapter is that of step {step}, the best on the selection rows.",
    "finetune.outcomes": "Held-out rows: base and adapter",
    "run.title": "The run, stage by stage",
    "run.line": "{stages} stages, {time} in all.",
    "run.waiting": "The run waits: {what}.",
    "run.stages": "Stages",
    "analysis.title": "Experiment {name}",
    "analysis.units": "{units} of {planned} planned units; the design is {design}.",
    "analysis.metric": "{metric} against the control; {direction}",
    "analysis.alt": "Difference of {metric} to the control with its interval, for {arms}.",
    "analysis.course": "{metric} at earlier looks, with the confidence sequence",
    "analysis.course.alt": "Difference of {metric} to the control at {looks} looks.",
    "analysis.comparisons": "All comparisons",
    "analysis.decisions": "What to do with each arm",
    "analysis.split": "Units by arm; they follow the split",
    "analysis.mismatch": "Units by arm; they do NOT follow the split, so the result is void",
    "study.title": "What the study of this project found",
    "study.about": (
        "The project's own study trained each module type alone, and rules that choose types, on "
        "{pairs} pairs of network and task, with {networks} networks."
    ),
    "study.nearest": (
        "The nearest to this model is {network}, of the same family ({architecture}): it has "
        "{size} parameters, this model {own}. What holds at another size is not known."
    ),
    "study.nearest.unsized": (
        "The nearest to this model is {network}, of the same family ({architecture}), with {size} "
        "parameters; the size of this model is not known."
    ),
    "study.none": (
        "None of its networks is like this model ({architecture}): they are {networks}. What they "
        "show may not hold here."
    ),
    "study.pooled": (
        "Over all {pairs} pairs the mean rank correlation of score and gain is {rho} (95 % "
        "interval {bounds}); below 0 a type with a lower score gained more."
    ),
    "study.unbounded": "not known, with one network",
    "study.open": (
        "The interval holds 0, so that the study does not show yet that the score predicts the "
        "gain. Verify a placement before you rely on it."
    ),
    "study.shown": "The interval does not hold 0.",
    "study.regret": (
        "The regret of a rule is the share of the gain of the best type alone that it leaves; "
        "below 0 it gains more than that type."
    ),
    "study.pairs": "Pairs of {network}",
    "cost.title": "Cost on {device}",
    "cost.total": "measured total",
    "cost.search": "not run: {plan}",
    "provenance.title": "Provenance",
    "provenance.read": (
        "The commands below are as complete as the records are; paths are those of the "
        "machine that made them."
    ),
    "provenance.records": "Records on this page",
    "provenance.conditions": "How the scores were made",
    "made.model": "model",
    "made.revision": "revision",
    "made.architecture": "architecture",
    "made.data": "data",
    "made.fingerprint": "fingerprint of the data",
    "made.dtype": "dtype",
    "made.device": "device",
    "made.seed": "seed",
    "made.denominator": "denominator",
    "made.created": "created",
    "made.elapsed": "time",
}
"""Key → text, with placeholders in braces."""
