"""`pneumo-hf tune`: the learning rate of a recipe, searched on validation."""

import argparse

HELP = "search the learning rate of a recipe on validation"
USAGE = "pneumo-hf tune --config configs/X.yaml [--trials 20] [--field value ...]"
DESCRIPTION = (
    "Fine-tune a recipe at several learning rates, from the same probe, and report which gave the best "
    "metric_for_best_model on validation: tune.json in the recipe's output_dir, beside tune.db, from which a killed "
    "search resumes. Every field of train_hf.py is accepted. Needs optuna."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.usage = USAGE
    parser.add_argument("--trials", type=int, default=20, help="finished trials to end at (default: 20)")


def run(arguments: argparse.Namespace) -> None:
    """Search the learning rate."""
    from pneumo_hf.training.tune import tune

    tune(arguments.rest, arguments.trials)
