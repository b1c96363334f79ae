# Two commands: `make lab` and `make test`. Each sets up what it needs the first time, and works alone.
# `make help` lists the rest.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# torch's threads sleep while they wait for each other. By default they spin, which is slow on a busy machine.
export OMP_WAIT_POLICY ?= passive

.DEFAULT_GOAL := help
.PHONY: help setup data lab course student stick grade test lint unit lessons store bench-quality bench-checkpoint bench-speed bench-chaos clean

help:
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' Makefile | expand -t 26

setup: $(READY)  ## the environment only

# The stamp is written last: an environment whose set-up was interrupted has none, and is made again from the start.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1)."; \
	  echo "Say which one to use: make PYTHON=python3.12 lab"; exit 2; }
	@echo "Making the environment in $(VENV): a few minutes, once. pip says what it does; some of its steps are silent for a while."
	@rm -f $(READY)
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --no-compile --disable-pip-version-check -c constraints.txt -e '.[teach,grade,test]' || { \
	  echo "pip could not install the packages; its own words are above. To try again: make setup"; exit 1; }
	@echo "Compiling …"  # on all cores, which pip does not; some packages hold files for other Pythons
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1 || true
	@# nbgrader and the Notebook it needs work from the command line here: their buttons stay out of a learner's JupyterLab.
	@cd $(VENV)/etc/jupyter/jupyter_server_config.d && rm -f nbgrader.json notebook.json
	@cd $(VENV)/share/jupyter/labextensions && rm -rf @jupyter/nbgrader @jupyter-notebook
	@touch $(READY)

data: $(READY)
	@$(BIN)/python -m mvae.data.movielens

lab: data  ## open JupyterLab on the tour, lesson 00
	@$(BIN)/python scripts/lab.py $(LAB)

course: data  ## run every lesson without a screen, into build/course/
	@$(BIN)/python scripts/course.py

student: $(READY)  ## the course to hand out: no outputs, no solutions, into build/student/ and a zip
	@$(BIN)/python scripts/student.py

stick: $(READY)  ## wheels, films and notebooks for laptops without a network: make stick STICK=folder
	@$(BIN)/python scripts/stick.py $(if $(STICK),"$(STICK)")

grade: data  ## grade what was handed in: make grade SUBMISSIONS=folder
	@$(BIN)/python scripts/grade.py $(if $(SUBMISSIONS),"$(SUBMISSIONS)")

test: data lint unit lessons  ## everything CI checks: ruff, mypy, pytest, pytest --nbval

lint: $(READY)  ## ruff, mypy and the one-way doors only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

unit: data  ## the tests without the lessons
	$(BIN)/python -m pytest

lessons: data  ## the lessons as tests: every stored output is compared
	$(BIN)/python -m pytest --nbval --nbval-current-env --nbval-cell-timeout 300 notebooks

store: data  ## run the lessons and store their outputs in notebooks/
	$(BIN)/python scripts/course.py --store

bench-quality: data  ## the README's table: NDCG@100 on ML-100K (some minutes)
	$(BIN)/python -m benchmarks.quality

bench-checkpoint: $(READY)  ## the checkpoint tools: time, memory, kills and resumes (needs 12 GB of disk)
	$(BIN)/python -m benchmarks.checkpoint_read
	$(BIN)/python -m benchmarks.checkpoint_save

bench-speed: $(READY)  ## seconds of a training step, beside other libraries (the first time their packages are fetched)
	$(BIN)/python -m benchmarks.speed --write

bench-chaos: $(READY)  ## kill `mvae train` at its file events and resume it (some 20 minutes)
	$(BIN)/python -m benchmarks.chaos

clean:  ## remove the environment and what was made; fetched data stays
	rm -rf $(VENV) build .pytest_cache .ruff_cache .mypy_cache .import_linter_cache *.egg-info
