# `make demo` trains the quickstart on the embedded films and serves it; `make test` runs the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/quickstart
SHIPPED := models/pneumo-efficientnet
HALVES := $(addprefix runs/flagship_half_,seed3 seed4 seed5)
FLAGSHIPS := $(addprefix runs/flagship_,seed3 seed4 efficientnet_seed1 efficientnet_seed2 efficientnet_seed42)
export GRADIO_ANALYTICS_ENABLED := False
export TOKENIZERS_PARALLELISM := false

.PHONY: demo train app setup test test-space results recipes bench style style-check clean

demo: train  ## fine-tune, evaluate, compare with the shipped model, then serve the app on 127.0.0.1:7860
	-$(BIN)/python -m pneumo_hf compare $(RUN) $(SHIPPED) --output_dir $(RUN)/compared
	$(BIN)/python app.py --model $(RUN)

train: setup  ## the quickstart recipe on the embedded sample; a killed run goes on
	$(BIN)/python train_hf.py --config configs/quickstart.yaml --output_dir $(RUN) $(if $(wildcard $(RUN)/checkpoints),--resume_from_checkpoint)

app: setup  ## serve the shipped model; make app MODEL=runs/mine serves another
	$(BIN)/python app.py --model $(or $(MODEL),$(SHIPPED))

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.txt pyproject.toml
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

test: setup  ## everything that can run without the network
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-space: setup  ## a pushed Space, installed into an empty environment, answers; minutes, from PyPI
	$(BIN)/python -m pytest -m install

results: setup  ## the README's result table: three seeds of the quickstart
	for seed in 1 2 42; do \
	    $(BIN)/python train_hf.py --config configs/quickstart.yaml --seed $$seed --output_dir runs/quickstart-seed$$seed && \
	    cp runs/quickstart-seed$$seed/report/metrics.json docs/quickstart/seed$$seed.json && \
	    cp runs/quickstart-seed$$seed/report/metrics_validation.json docs/quickstart/validation_seed$$seed.json \
	    || exit 1; \
	done
	$(BIN)/python docs/write_results.py

define train_seeds  # of a recipe, under a name, the seeds, with these overrides
for seed in $(3); do \
	    $(BIN)/python train_hf.py --config configs/$(1).yaml --dataset $(DATA) $(4) --seed $$seed \
	        --output_dir runs/$(2)_seed$$seed $(TRAIN) && \
	    $(BIN)/python docs/write_recipes.py runs/$(2)_seed$$seed=$(2)_seed$$seed || exit 1; \
	done
endef

define distil  # into one checkpoint, under a name, on mild crops, with these overrides
$(BIN)/python train_hf.py --config configs/flagship_efficientnet.yaml --dataset $(DATA) --half_precision_weights true \
	    --crop_scale 0.8 --jitter 0 --blur 0 --horizontal_flip 0.5 $(2) --output_dir runs/$(1) $(TRAIN)
	$(BIN)/python docs/write_recipes.py runs/$(1)=$(1)
endef
HEAD_AUGMENTED := --validation block --split_seed 42 --num_train_epochs 10 --learning_rate 1e-3 --layer_decay 1 --unfreeze_layers 2 \
    --freeze_batch_norm true --metric_for_best_model log_loss --crop_scale 0.8 --jitter 0 --blur 0 --horizontal_flip 0.5 --early_stopping_patience 0
TAUGHT := --metric_for_best_model log_loss --teachers $(FLAGSHIPS)
SPOILT := --jitter 0.3 --blur 0.3 --coarsen 0.3 --noise 0.5
RIMS := --num_train_epochs 4 --probe_epochs 0 $(SPOILT) --frame_mix 1
HALF := --metric_for_best_model log_loss --teachers $(HALVES) $(RIMS) --washed_out 0.1 --fine_tuned_share 0.5

recipes: setup  ## docs/RESULTS.md: every recipe on the whole set: make recipes DATA=chest_xray.zip [TRAIN="--bf16 true"]
	for name in baseline_cnn efficientnet_b0 resnet50_top40 resnet18_step resnet50_frozen_youden mobilenet_v2_clahe; do \
	    $(BIN)/python train_hf.py --config configs/$$name.yaml --dataset $(DATA) --output_dir runs/$$name $(TRAIN) && \
	    $(BIN)/python docs/write_recipes.py runs/$$name=$$name || exit 1; \
	done
	$(BIN)/python train_hf.py --config configs/resnet50_frozen_youden.yaml --dataset $(DATA) $(HEAD_AUGMENTED) --output_dir runs/frozen_augmented $(TRAIN)
	$(BIN)/python docs/write_recipes.py runs/frozen_augmented=frozen_augmented
	$(BIN)/python train_hf.py --config configs/resnet50_frozen_youden.yaml --dataset $(DATA) $(HEAD_AUGMENTED) $(SPOILT) --frame_mix 1 --output_dir runs/frozen_spoilt $(TRAIN)
	$(BIN)/python docs/write_recipes.py runs/frozen_spoilt=frozen_spoilt
	$(call train_seeds,flagship,flagship,3 4 5,)
	$(call train_seeds,flagship,flagship_160,1 2 42,--image_size 160 --metric_for_best_model roc_auc)
	$(call train_seeds,flagship,flagship_288,3,--image_size 288)
	$(call train_seeds,flagship,flagship_rim,3,--frame_mix 1)
	$(call train_seeds,flagship_styles,flagship_styles,42,)
	$(call train_seeds,flagship_efficientnet,flagship_efficientnet,1 2 42,)
	$(BIN)/python -m pneumo_hf evaluate --model runs/flagship_seed3 --model runs/flagship_seed4 --model runs/flagship_seed5 \
	    --data $(DATA) --output_dir runs/ensemble
	$(BIN)/python docs/write_recipes.py runs/ensemble=ensemble
	$(BIN)/python -m pneumo_hf evaluate --model runs/flagship_efficientnet_seed1 --model runs/flagship_efficientnet_seed2 \
	    --model runs/flagship_efficientnet_seed42 --data $(DATA) --output_dir runs/ensemble_efficientnet
	$(BIN)/python docs/write_recipes.py runs/ensemble_efficientnet=ensemble_efficientnet
	$(BIN)/python -m pneumo_hf evaluate $(FLAGSHIPS:%=--model %) --data $(DATA) --output_dir runs/ensemble_flagships
	$(BIN)/python docs/write_recipes.py runs/ensemble_flagships=ensemble_flagships
	$(BIN)/python -m pneumo_hf evaluate --model runs/efficientnet_b0 --model runs/resnet50_top40 --model runs/resnet18_step \
	    --model runs/resnet50_frozen_youden --model runs/mobilenet_v2_clahe --data $(DATA) --output_dir runs/ensemble_projects
	$(BIN)/python docs/write_recipes.py runs/ensemble_projects=ensemble_projects
	$(call train_seeds,flagship,flagship_taught,3,$(TAUGHT) $(SPOILT) --frame_mix 1)
	$(call train_seeds,flagship_half,flagship_again,3,--fine_tuned_share 1)
	$(call train_seeds,flagship_half,flagship_half,3 4 5,--model_name_or_path runs/flagship_seed$$seed)
	$(BIN)/python benchmarks/students.py runs/flagship_seed3 runs/flagship_half_seed3 --dataset $(DATA)
	$(call distil,student_160,--num_train_epochs 4 --teachers runs/flagship_160_seed1 runs/flagship_160_seed2 runs/flagship_160_seed42)
	$(call distil,student_flagships,--num_train_epochs 6 $(TAUGHT))
	$(call distil,student_continued,--num_train_epochs 6 $(TAUGHT) --model_name_or_path runs/student_160)
	$(call distil,student_noisy,--num_train_epochs 6 $(TAUGHT) --model_name_or_path runs/student_160 $(SPOILT))
	$(call distil,student_rim,--model_name_or_path runs/student_noisy $(TAUGHT) $(RIMS))
	$(call distil,student_washed,--model_name_or_path runs/student_noisy $(TAUGHT) $(RIMS) --washed_out 0.1)
	$(call distil,student_longer,--model_name_or_path runs/student_washed $(TAUGHT) $(RIMS) --washed_out 0.1 --seed 1)
	$(call distil,pneumo-efficientnet,--model_name_or_path runs/student_washed $(HALF))
	$(call train_seeds,flagship_efficientnet,efficientnet_half,1 2 42,--model_name_or_path runs/flagship_efficientnet_seed$$seed $(HALF) \
	    --crop_scale 0.8 --horizontal_flip 0.5)
	$(BIN)/python -m pneumo_hf evaluate $(HALVES:%=--model %) --data $(DATA) --output_dir runs/ensemble_half
	$(BIN)/python docs/write_recipes.py runs/ensemble_half=ensemble_half
	$(BIN)/python -m pneumo_hf evaluate $(HALVES:%=--model %) --model runs/pneumo-efficientnet --data $(DATA) --output_dir runs/ensemble_half_student
	$(BIN)/python docs/write_recipes.py runs/ensemble_half_student=ensemble_half_student
	$(BIN)/python -m pneumo_hf evaluate $(HALVES:%=--model %) $(addprefix --model runs/efficientnet_half_,seed1 seed2 seed42) --data $(DATA) \
	    --output_dir runs/ensemble_halves
	$(BIN)/python docs/write_recipes.py runs/ensemble_halves=ensemble_halves
	$(BIN)/python benchmarks/students.py $(addprefix runs/,student_160 student_flagships student_continued student_noisy student_rim student_longer student_washed pneumo-efficientnet) --dataset $(DATA)
	$(BIN)/python benchmarks/frames.py $(addprefix runs/,flagship_seed3 flagship_rim_seed3 student_noisy student_rim student_washed pneumo-efficientnet) --dataset $(DATA)
	$(BIN)/python docs/write_recipes.py

bench: setup  ## the figures in benchmarks/results and docs/PERFORMANCE.md; without the Hub: make bench RESNET50=FOLDER MOBILENET=FOLDER
	$(BIN)/python benchmarks/audit_memory.py
	$(BIN)/python benchmarks/training_step.py $(if $(RESNET50),--resnet50 $(RESNET50)) $(if $(MOBILENET),--mobilenet $(MOBILENET))
	for name in training_auc data_cost frozen_stage serving scoring_scaling shared_cores training_scaling whole_job load predict_scale; do \
	    $(BIN)/python benchmarks/$$name.py || exit 1; \
	done
	$(BIN)/python docs/write_performance.py
	$(BIN)/python docs/write_scaling.py

style: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

style-check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

clean:
	rm -rf $(VENV) build *.egg-info
