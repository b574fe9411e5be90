# `make demo` trains the quickstart on the embedded films and serves it; `make test` runs the tests.
PYTHON ?= python3
BIN := .venv/bin
RUN ?= runs/quickstart
SHIPPED := models/pneumo-efficientnet
export GRADIO_ANALYTICS_ENABLED := False

.PHONY: demo train app setup test test-space test-oldest recipes shipped bench bench-gpu docs style style-check

demo: train  ## fine-tune, evaluate, compare with the shipped model, then serve the app on 127.0.0.1:7860
	-$(BIN)/python -m pneumo_hf compare $(RUN) $(SHIPPED) --output_dir $(RUN)/compared
	$(BIN)/python app.py --model $(RUN)

train: setup  ## the quickstart recipe on the embedded sample; a killed run is resumed
	$(BIN)/python train_hf.py --config configs/quickstart.yaml --output_dir $(RUN) $(if $(wildcard $(RUN)/checkpoints),--resume_from_checkpoint)

app: setup  ## serve the shipped model; make app MODEL=runs/mine serves another
	$(BIN)/python app.py --model $(or $(MODEL),$(SHIPPED))

setup: .venv/.installed
.venv/.installed: requirements.txt requirements.lock pyproject.toml
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

test: setup  ## everything that can run without the network
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-oldest:  ## a few minutes of tests with the lowest versions that are declared; torch 2.11 comes with CUDA, 5 GB
	test -d .venv-oldest || $(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install --quiet -c constraints-oldest.txt -e '.[all]' pytest pytest-xdist pytest-timeout hypothesis psutil
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -n 2 --dist loadfile -m "not install and not cluster and not long and not slow and not browser" \
	    tests/imaging tests/inference tests/data/test_sources.py tests/test_pipeline_contract.py tests/training/test_layers.py

test-space: setup  ## a pushed Space, installed into an empty environment, answers; minutes, from PyPI
	$(BIN)/python -m pytest -m install

shipped: setup  ## runs/distill_robust, a model like the shipped one from ImageNet weights: make shipped DATA=chest_xray.zip [ORIGINALS=ZIP] [TRAIN="--bf16 true"]
	for run in teacher_1 teacher_2 teacher_3 distill distill_robust; do test -f runs/$$run/report/metrics.json || \
	    $(BIN)/python train_hf.py --dataset $(DATA) --output_dir runs/$$run --config configs/$$(case $$run in \
	            distill*) echo $$run.yaml;; *) echo flagship_efficientnet.yaml --seed $${run##*_};; esac) \
	        $(if $(ORIGINALS),--hold_out $(ORIGINALS)) $$(test -d runs/$$run/checkpoints && echo --resume_from_checkpoint) $(TRAIN) || exit 1; \
	done
recipes: setup  ## docs/results.md: every recipe on the whole set: make recipes DATA=chest_xray.zip [TRAIN="--bf16 true"]
	for run in $(filter-out quickstart distill% flagship% convnextv2% efficientnet_b4 vit_lora rad_dino,$(notdir $(basename $(wildcard configs/*.yaml)))) \
	    $(addprefix flagship_seed,3 4 5) $(addprefix flagship_efficientnet_seed,1 2 42); do \
	    $(BIN)/python train_hf.py --config configs/$${run%_seed*}.yaml --dataset $(DATA) --output_dir runs/$$run \
	        $$(case $$run in *_seed*) echo --seed $${run##*_seed};; esac) \
	        $$(test -d runs/$$run/checkpoints && echo --resume_from_checkpoint) $(TRAIN) && \
	    $(BIN)/python docs/build.py collect runs/$$run=$$run || exit 1; \
	done

bench: setup  ## benchmarks/results and docs/performance.md; without the Hub: make bench RESNET50=FOLDER MOBILENET=FOLDER
	$(BIN)/python benchmarks/training.py $(if $(RESNET50),--resnet50 $(RESNET50)) $(if $(MOBILENET),--mobilenet $(MOBILENET))
	for name in serving scaling load rest start; do $(BIN)/python benchmarks/$$name.py || exit 1; done
	$(BIN)/python docs/build.py performance scaling
bench-gpu:  ## the same of a GPU, with the Python that is there: make bench-gpu PYTHON=python3 [DATA=chest_xray.zip]
	$(PYTHON) benchmarks/gpu.py $(if $(DATA),--data $(DATA))
docs: setup  ## the manual as a site, in site/
	$(BIN)/mkdocs build --strict --quiet
style: setup
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .
style-check: setup
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/lint-imports && $(BIN)/mypy
