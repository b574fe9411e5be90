"""Write docs/PERFORMANCE.md from the files in benchmarks/results: `python docs/write_performance.py`."""

import json
import statistics
from pathlib import Path

from jinja2 import Environment, FileSystemLoader

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "benchmarks" / "results"
STEPS = {"lite0": "EfficientNet-Lite0", "resnet50": "ResNet-50", "mobilenet": "MobileNetV2"}
BESIDE = ("training_auc", "load", "predict_scale", "whole_job")  # whose figures are no ratios of two ways
WANTED = {  # on two cores
    "step_vs_ceiling_lite0": 0.90,
    "step_vs_usual_lite0": 1.8,
    "step_vs_ceiling_resnet50": 0.95,
    "step_vs_usual_resnet50": 2.6,
    "step_vs_ceiling_mobilenet": 0.90,
    "gather_vs_decode": 50,
    "frozen_stage_speedup": 8,
    "serving_speedup_single": 2.5,
    "serving_speedup_batch16": 2.5,
    "serving_speedup_single_model": 3.5,
    "scoring_scaling_2proc": 1.85,
}


def page(results: Path = RESULTS) -> str:
    """The page of those results that are there."""
    names = (
        *(f"training_step_{name}" for name in STEPS),
        *("data_cost", "frozen_stage", "serving", "scoring_scaling", "shared_cores", "training_scaling"),
    )
    found = {name: json.loads(path.read_text()) for name in names if (path := results / f"{name}.json").exists()}
    beside = {name: json.loads(path.read_text()) for name in BESIDE if (path := results / f"{name}.json").exists()}
    pages = Environment(loader=FileSystemLoader(DOCS), trim_blocks=True, lstrip_blocks=True)
    pages.filters["median"] = statistics.median
    return pages.get_template("PERFORMANCE.md.jinja").render(
        ratios=[
            (ratio, value, "training_step.py" if name.startswith("training_step") else f"{name}.py")
            for name, result in found.items()
            for ratio, value in result["ratios"].items()
        ],
        wanted=WANTED,
        steps={
            title: found[f"training_step_{name}"] for name, title in STEPS.items() if f"training_step_{name}" in found
        },
        **found,
        **beside,
    )


if __name__ == "__main__":
    (DOCS / "PERFORMANCE.md").write_text(page())
