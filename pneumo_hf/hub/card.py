"""The model card: `model_card.md` filled from the run's own files, so that no number is typed by hand."""

import json
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from pneumo_hf import DISCLAIMER, __version__
from pneumo_hf.evaluation.report import METRIC_NAMES


def write_card(run: Path, template: Path) -> None:
    """Render the card of a finished run to its `README.md`, with the test metrics as the Hub's model-index."""
    metrics = json.loads((run / "report" / "metrics.json").read_text())
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    config = json.loads((run / "config.json").read_text())
    base = recipe["model_name_or_path"]
    data = ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="image-classification",
        base_model=base if base.count("/") == 1 and not Path(base).exists() else None,
        tags=["chest-x-ray", "pneumonia", "radiology", "research-only"],
        metrics=["roc_auc", "accuracy", "f1"],
        model_name=run.name,
        eval_results=[
            EvalResult(
                task_type="image-classification",
                dataset_type=metrics["dataset"],
                dataset_name=metrics["dataset"],
                dataset_split=metrics["split"],
                metric_type=key,
                metric_name=METRIC_NAMES[key],
                metric_value=metric["value"],
            )
            for key, metric in metrics["metrics"].items()
            if metric["value"] is not None
        ],
    )
    card = ModelCard.from_template(
        data,
        template_path=str(template),
        name=run.name,
        metrics=metrics,
        metric_names=METRIC_NAMES,
        recipe=recipe,
        base=Path(base).name if Path(base).exists() else base,
        training_data=config["training_data"],
        clahe=config["preprocessing"]["clahe"],
        own_code="auto_map" in config,
        temperature=config["calibration_temperature"],
        disclaimer=DISCLAIMER,
        package_version=__version__,
    )
    card.save(run / "README.md")
