"""Fine-tune a classifier on chest X-rays: python train_hf.py --config configs/quickstart.yaml [--option value]."""

import sys

from pneumo_hf import runtime
from pneumo_hf.config.parse import parse_args
from pneumo_hf.errors import one_line_errors

runtime.before_imports()


def main(argv: list[str]) -> None:
    """Train, evaluate and report a recipe, then write the model card."""
    arguments = parse_args(argv)  # --help answers here, before torch is imported
    from pneumo_hf import train
    from pneumo_hf.hub.card import write_card

    # train: films split by patient, the probe, fine-tuning, temperature and threshold from validation, the test once
    run = train(arguments)
    if arguments.training.process_index == 0:
        write_card(run)
    runtime.end_processes()


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
