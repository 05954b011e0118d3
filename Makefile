# One virtual environment, made once; every target works on a fresh machine with Python >= 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEV := $(VENV)/.dev
CORE := $(VENV)/.core
TRAINERS := .venv-trainers
RELEASE := .venv-release

.PHONY: demo tour example test test-all coverage trainers check format docs dist lowest newest pythons bench bench-install bench-largest evidence evidence-indicators evidence-run external robustness verify-gsm8k gpu-parcels gpu clean

demo: $(CORE)
	$(BIN)/plop demo

# From rows to a decision with one recipe, on the bundled model: about three minutes on two cores.
tour: $(DEV)
	rm -rf plop-tour && mkdir plop-tour
	cd plop-tour && set -e; plop="../$(BIN)/plop"; \
	file() { ../$(BIN)/python -c "from plop_lora.demo import $$1; print($$1)"; }; \
	$$plop init "$$(file MODEL)" "$$(file DATA)/problems.jsonl" --yes; \
	$$plop run recipe.yaml --set seeds=3 --set rank=4 || test $$? -ge 3; \
	$$plop report plop-run -o report.html

# What is not marked slow: the run between two edits.
test: $(DEV)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow'

# Those tests, and then the slow ones.
test-all: test
	$(BIN)/python -m pytest -n 2 --dist loadfile -m slow

# The lines of the library that the tests which are not slow go through, and those that they miss.
coverage: $(DEV)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow' --cov --cov-report=term

# The exports against the trainers' own parsers, in environments of their own beside ours.
trainers: trainers-family trainers-native

trainers-%: $(DEV) tests/trainers/%.txt
	$(PYTHON) -m venv $(TRAINERS)/$*
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> $$($(TRAINERS)/$*/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/ours.pth
	$(TRAINERS)/$*/bin/python -m pip install --quiet --no-deps --disable-pip-version-check -r tests/trainers/$*.txt
	PYTHONPATH=src DISABLE_VERSION_CHECK=1 $(TRAINERS)/$*/bin/python -m pytest tests/test_export_$*.py

check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(DEV)
	$(BIN)/mkdocs serve

# The wheel and the sdist, checked, and used from empty environments. SHARED=1 takes what plop-lora
# requires from .venv instead of installing it twice.
dist: $(RELEASE)/.tools $(if $(SHARED),$(CORE))
	$(RELEASE)/bin/cffconvert --validate -i CITATION.cff
	$(RELEASE)/bin/python scripts/release/distribution.py $(if $(SHARED),--shared \
		"$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')")

# The lowest and the newest versions that pyproject.toml allows, and every Python of this machine, in
# environments of their own, several gigabytes each. SAVE=1 renews the table of docs/install.md.
lowest newest pythons: $(RELEASE)/.tools
	PYTHONPATH=src $(RELEASE)/bin/python scripts/release/versions.py $@ $(if $(SAVE),--save)

bench: $(DEV)
	$(BIN)/python benchmarks/score.py
	$(BIN)/python benchmarks/expected_norms.py
	$(BIN)/python benchmarks/stream.py
	$(BIN)/python benchmarks/rivals.py
	$(BIN)/python benchmarks/stopping.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/dtypes.py
	$(BIN)/python benchmarks/trial.py
	$(BIN)/python benchmarks/start.py
	$(BIN)/python benchmarks/warm.py
	$(BIN)/python benchmarks/ab_store.py

# Downloads plop-lora and what it requires, torch with CUDA among it: several gigabytes, twice.
bench-install: $(DEV) $(RELEASE)/.tools
	PATH="$(CURDIR)/$(RELEASE)/bin:$$PATH" $(BIN)/python benchmarks/install.py --all

# Writes a checkpoint of 65 GB, or as much of it as the disk holds, and removes it again.
bench-largest: $(DEV)
	$(BIN)/python benchmarks/largest.py

# The trials of a pair of the study that have no record yet, one at a time, at low priority. Stop it
# and start it at any time. GSM8K=DIR names the folder of that data set's two files.
evidence-run: $(DEV)
	@test -n "$(PAIR)" || { echo "Name a pair: make evidence-run PAIR=NAME"; \
		$(BIN)/python scripts/experiments/study.py list; exit 2; }
	nice -n 19 $(BIN)/python scripts/experiments/study.py prepare $(PAIR) $(if $(GSM8K),--gsm8k $(GSM8K)) $(if $(FURTHER),--further)
	nice -n 19 $(BIN)/python scripts/experiments/study.py run $(PAIR) --workers 1 $(if $(FURTHER),--further)

# The learned rule, the tables and pictures of docs/evidence.md, and what reports show of the study,
# from the records that are there.
evidence: $(DEV)
	$(BIN)/python scripts/experiments/learned.py
	$(BIN)/python scripts/experiments/evidence.py --page docs/evidence.md --data src/plop_lora/study/findings.json
	$(BIN)/python docs/generate.py --pictures
	$(BIN)/python docs/generate.py --tables

# The values of every indicator beside the records of a pair, or of all: from forward passes, a few
# minutes a pair on two cores.
evidence-indicators: $(DEV)
	nice -n 19 $(BIN)/python scripts/experiments/indicators.py $(or $(PAIR),all) $(if $(GSM8K),--gsm8k $(GSM8K))

# What others published of placements, against the indicators: a section of docs/evidence.md.
external: $(DEV)
	$(BIN)/python scripts/experiments/external.py --page docs/evidence.md

# Whether the choice of the scores holds on four networks: the records that are missing, a few minutes
# each on two cores, and the tables of docs/robustness.md. GSM8K=DIR has that data set's two files.
robustness: $(DEV)
	nice -n 19 $(BIN)/python scripts/experiments/robustness.py run $(if $(GSM8K),--gsm8k $(GSM8K))
	$(BIN)/python scripts/experiments/robustness.py tables --page docs/robustness.md

# The example of a report in the documentation, from the records in docs/example/run.
example: $(DEV)
	$(BIN)/plop report docs/example/run -o docs/example/report.html

# SmolLM2-135M on GSM8K by `plop verify`: on two idle cores three to six hours, in a folder from which
# the same command goes on. PLAN=1 prints what is left to run. GSM8K=DIR has that data set's two files.
verify-gsm8k: $(DEV)
	@test -n "$(GSM8K)" || { echo "Name the folder of GSM8K: make verify-gsm8k GSM8K=DIR"; exit 2; }
	$(BIN)/python scripts/experiments/models.py smollm2
	$(BIN)/python scripts/experiments/gsm8k.py $(GSM8K) --output build/gsm8k
	test -f build/gsm8k/scores.json || nice -n 19 $(BIN)/plop score build/models/smollm2 \
		--data build/gsm8k/train.jsonl --samples 128 --max-length 256 --stop fixed -o build/gsm8k/scores.json
	nice -n 19 $(BIN)/plop verify build/gsm8k/scores.json --recipe scripts/experiments/gsm8k.yaml \
		--folder build/gsm8k/run $(if $(PLAN),--plan,-o scripts/experiments/results/gsm8k.json --force) \
		|| test $$? -ge 3 # a verdict other than confirmed

# What a GPU machine without a network needs, in folders that fit into one transfer each.
gpu-parcels: $(DEV)
	$(BIN)/python scripts/gpu/parcels.py

# On the GPU machine, with the Python that is there; see docs/how-to/gpu.md.
gpu:
	PYTHON=$(PYTHON) scripts/gpu/run.sh

clean:
	rm -rf $(VENV) $(TRAINERS) $(RELEASE) .venv-versions dist site plop-demo plop-tour

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "plop-lora needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)

# torch first and pinned, so that nothing pulls in another build of it.
$(CORE): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(DEV): $(CORE)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(RELEASE)/.tools: scripts/release/tools.txt
	$(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@
