# Each command works as the first one after a clone: it makes .venv and installs what it needs, once.
PYTHON ?= python3
export TORCH_INDEX ?=
BIN := .venv/bin
SUBMISSION ?= notebooks
REPORT ?= report
LAB ?=
# Which instruction sets the labs are verified under: native, plain, or both ("plain native").
CPU ?= native
JOBS ?= 2
PLAIN := ATEN_CPU_CAPABILITY=default OPENBLAS_CORETYPE=Nehalem
PYTEST := $(BIN)/python -m pytest -rs -n $(JOBS) --dist loadfile
NBVAL := --nbval --nbval-current-env --nbval-cell-timeout=400
export OMP_NUM_THREADS ?= 1

.PHONY: bench-classic bench-lm bench-agents .book .all help book test test-plain test-native lab grade pdf run-labs mutants models lint format clean
help:
	@echo "make book      build the HTML book and print the path to open"
	@echo "make lab       open JupyterLab on the notebooks"
	@echo "make grade     grade notebooks/, or make grade SUBMISSION=path"
	@echo "make test      all checks: graders, mutants, equations, labs, book, browser"
	@echo "make pdf       the book as one PDF (needs Chromium or Chrome)"
	@echo "make run-labs  run all labs, or make run-labs LAB=ch03_bellman, and store true outputs"
	@echo "make mutants   print the kill table and store it for the book"
	@echo "make models    train the small language models again"
	@echo "make lint      ruff: errors and formatting;  make format applies it"

.book .all: .%:
	@$(PYTHON) tools/environment.py $*

book: .book
	@$(BIN)/python tools/build_book.py

test: .all $(addprefix test-,$(CPU))

test-native: .all
	@echo "All tests, labs included (several minutes) …"
	@$(PYTEST) $(NBVAL) tests notebooks

test-plain: .all
	@echo "The labs under a plain instruction set (several minutes) …"
	@$(PLAIN) $(PYTEST) $(NBVAL) notebooks

lab: .all
	@$(BIN)/jupyter lab notebooks --ServerApp.root_dir=.

grade: .all
	@$(BIN)/python -m rlcourse.grade $(SUBMISSION) --report $(REPORT)

pdf: .all
	@$(BIN)/python tools/build_book.py singlehtml
	@$(BIN)/python tools/print_pdf.py

run-labs: .all
	@$(BIN)/python -m rlcourse.labs $(LAB)

mutants: .all
	@$(BIN)/python -m rlcourse.grading.kill_table

models: .all
	@$(BIN)/python -m rlcourse.lm.make_models
	@$(BIN)/python -m rlcourse.agents.make_models

# Against peers: quantecon, pymdptoolbox, Gymnasium's loop, Stable-Baselines3 (about an hour).
bench-classic: .all
	@$(BIN)/python -m pip install -q -r requirements-bench.txt
	$(BIN)/python benchmarks/bench_planning.py
	$(BIN)/python benchmarks/bench_tabular.py
	$(BIN)/python benchmarks/bench_reinforce.py
	$(BIN)/python benchmarks/bench_ppo.py

# The language-model chapters: the GRPO family, TRL's trainer, DPO against PPO (about 20 minutes).
bench-lm: .all
	$(BIN)/python benchmarks/bench_grpo_family.py
	$(BIN)/python benchmarks/bench_trl.py
	$(BIN)/python benchmarks/bench_dpo_ppo.py

# The agents' chapters, 8 seeds each, and TRL on the same world (about 3 hours).
bench-agents: .all
	$(BIN)/python benchmarks/bench_agents_world.py
	$(BIN)/python benchmarks/bench_agents.py main front blind sparse credit posting
	$(BIN)/python benchmarks/bench_talk.py
	$(BIN)/python benchmarks/bench_flywheel.py
	$(BIN)/python benchmarks/bench_agents_trl.py

lint: .all
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: .all
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

clean:
	rm -rf _build $(REPORT)
