"""Does the placement depend on the task? Score two and compare."""

import plop_lora as plop
from plop_lora.demo import DATA, MODEL

problems = plop.load_documents(DATA / "problems.jsonl", text="question")
snippets = plop.load_documents(DATA / "snippets.jsonl")
first = plop.score(str(MODEL), texts=problems)
second = plop.score(str(MODEL), texts=snippets)

print(plop.compare(first, second, first_name="problems", second_name="snippets"))
