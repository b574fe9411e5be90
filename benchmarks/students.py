"""Students side by side, on validation alone: python benchmarks/students.py RUN ... --dataset chest_xray.zip.

Which one is shipped is decided here: each scores the validation films of configs/flagship_efficientnet.yaml, as they
are and spoilt in eight ways, as the ablations do. The test is never scored.
Writes benchmarks/results/students.json.
"""

import argparse
from pathlib import Path

from ablations import SEVERITY, figures
from common import ROOT, write_result

from pneumo_hf import Predictor
from pneumo_hf.config import InputError, one_line_errors, parse_args
from pneumo_hf.data.pixels import decode_splits
from pneumo_hf.data.sources import load_data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders; their names are the rows'")
    parser.add_argument("--dataset", required=True, help="Kaggle's zip or folder, whole")
    arguments, given = parser.parse_known_args()
    recipe = ROOT / "configs" / "flagship_efficientnet.yaml"
    _, data_args, training_args = parse_args(["--config", str(recipe), "--dataset", arguments.dataset, *given])
    predictors = {Path(run).name: Predictor(run) for run in arguments.runs}
    first = next(iter(predictors.values()))
    if any(one.image_processor.size != first.image_processor.size for one in predictors.values()):
        raise InputError("the runs read films of different sizes")
    films, _ = decode_splits(load_data(arguments.dataset), first.image_processor, data_args, training_args.seed)
    rows = {name: figures(predictor, films["validation"], spoilt=True) for name, predictor in predictors.items()}
    write_result("students", {}, rows, severity=SEVERITY)


if __name__ == "__main__":
    with one_line_errors():
        main()
