"""docs/RESULTS.md from the runs in docs/results; python docs/write_recipes.py RUN_FOLDER=NAME ... collects runs first.

A name is that of a recipe in configs/, perhaps with _seedN behind it. Of a run its test and validation metrics and its
test predictions are kept, and what it changed of the recipe. `make recipes DATA=chest_xray.zip` trains and collects.
"""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import yaml
from jinja2 import Environment, FileSystemLoader
from sklearn.metrics import roc_curve

from pneumo_hf.config.parse import parse_args
from pneumo_hf.evaluation.compare import compare, read_run
from pneumo_hf.evaluation.metrics import top_label_error
from pneumo_hf.training.checkpoint import recipe_values

DOCS = Path(__file__).parent
RESULTS = DOCS / "results"
ORDER = (
    *("baseline_cnn", "efficientnet_b0", "resnet50_top40", "resnet18_step", "resnet50_frozen_youden"),
    *("frozen_augmented", "frozen_spoilt", "mobilenet_v2_clahe"),
    *("flagship", "ensemble", "flagship_half", "ensemble_half", "flagship_by_auc", "ensemble_by_auc"),
    *(
        "flagship_160",
        "ensemble_160",
        "flagship_288",
        "flagship_rim",
        "flagship_taught",
        "flagship_again",
        "flagship_styles",
        "flagship_efficientnet",
        "ensemble_efficientnet",
    ),
    *("ensemble_flagships", "student_160", "student_flagships", "student_continued", "student_noisy", "student_rim"),
    *(
        "student_washed",
        "student_longer",
        "pneumo-efficientnet",
        "ensemble_half_student",
        "efficientnet_half",
        "ensemble_halves",
    ),
    "ensemble_projects",  # the five student projects as one
)
KEPT = ("metrics.json", "metrics_validation.json", "predictions_test.csv", "history.csv")
OWN = {"dataset", "seed", "greater_is_better", "use_cpu", "bf16", "dataloader_pin_memory"}  # no changes of the recipe
RECIPES = {  # names that are no recipes
    "pneumo-efficientnet": "flagship_efficientnet",
    "student_160": "flagship_efficientnet",
    "student_flagships": "flagship_efficientnet",
    "student_continued": "flagship_efficientnet",
    "student_noisy": "flagship_efficientnet",
    "student_rim": "flagship_efficientnet",
    "student_washed": "flagship_efficientnet",
    "student_longer": "flagship_efficientnet",
    "efficientnet_half": "flagship_efficientnet",
    "flagship_taught": "flagship",
    "flagship_again": "flagship_half",
    "frozen_augmented": "resnet50_frozen_youden",
    "frozen_spoilt": "resnet50_frozen_youden",
    "flagship_160": "flagship",
    "flagship_288": "flagship",
    "flagship_rim": "flagship",
    "flagship_by_auc": "flagship",
}
MEANS = ("roc_auc", "accuracy", "sensitivity", "specificity")


def collect(run: Path, name: str) -> None:
    """Keep a run's figures under its name, and what it changed of the recipe, without the folders of a machine."""
    folder = RESULTS / name
    folder.mkdir(parents=True, exist_ok=True)
    report = run / "report" if (run / "report").is_dir() else run
    for file in KEPT:
        if (report / file).exists():
            shutil.copy(report / file, folder / file)
    recipe = DOCS.parent / "configs" / f"{RECIPES.get(family(name), family(name))}.yaml"
    if (run / "recipe.yaml").exists():
        meant, defaults = (recipe_values(parse_args(argv)) for argv in (["--config", str(recipe)], []))
        done = {**defaults, **yaml.safe_load((run / "recipe.yaml").read_text())}  # an older run lacks newer keys
        done["teachers"], meant["teachers"] = (
            [Path(teacher).name for teacher in values["teachers"] or ()] for values in (done, meant)
        )
        changed = {key: done[key] for key in done if key not in OWN and done[key] != meant.get(key)}
        if not done["probe_epochs"]:
            changed.pop("probe_learning_rate", None)  # of nothing
        if "model_name_or_path" in changed:
            changed["model_name_or_path"] = Path(changed["model_name_or_path"]).name
            if meant["model_name_or_path"] == f"runs/{changed['model_name_or_path']}":
                del changed["model_name_or_path"]
        (folder / "changes.json").write_text(json.dumps(changed, indent=2) + "\n")


def family(name: str) -> str:
    return re.sub(r"_seed\d+$", "", name)


def changes_of(folder: Path) -> str:
    path = folder / "changes.json"
    changes = json.loads(path.read_text()) if path.exists() else {}
    return ", ".join(f"{key} {value}" for key, value in changes.items())


def specificity_at(run: str, sensitivity: float) -> float:
    """What a run's ROC curve of the official test reads there: to set beside a published pair, not to choose by."""
    films = read_run(RESULTS / run)
    false_positive_rate, true_positive_rate, _ = roc_curve(films.labels, films.probs)
    return float(1 - false_positive_rate[np.searchsorted(true_positive_rate, sensitivity)])


def top_label_ece(folder: Path) -> float:
    films = read_run(folder)
    return top_label_error(films.labels, films.probs)


def means(runs: dict[str, dict]) -> dict[str, dict]:
    """The mean over the seeds of those recipes that were run with several."""
    families = {}
    for name, run in runs.items():
        families.setdefault(family(name), []).append(run)
    return {
        name: {
            "seeds": len(members),
            **{key: float(np.mean([run["metrics"][key]["value"] for run in members])) for key in MEANS},
        }
        for name, members in families.items()
        if len(members) > 1
    }


def read_ablations(kind: str) -> dict[str, dict]:
    """What `benchmarks/ablations.py` wrote of one kind, by recipe."""
    files = sorted((DOCS.parent / "benchmarks" / "results").glob(f"{kind}*.json"))
    return {path.stem.removeprefix(kind): json.loads(path.read_text()) for path in files}


def main() -> None:
    for argument in sys.argv[1:]:
        run, _, name = argument.rpartition("=")
        if family(name) not in ORDER:
            sys.exit(f"error: {argument}: after = comes a name, one of {', '.join(ORDER)}, perhaps with _seedN")
        collect(Path(run), name)
    folders = [folder for folder in RESULTS.iterdir() if (folder / "metrics.json").exists()]
    folders.sort(key=lambda folder: (ORDER.index(family(folder.name)), folder.name))
    result = compare(folders, RESULTS)
    (RESULTS / "index.html").unlink()  # the page is for the reader of the repository: RESULTS.md
    (RESULTS / "compare.md").unlink()
    ablations, unseen = read_ablations("ablations_"), read_ablations("unseen_NORMAL2_")
    validation = {
        folder.name: json.loads((folder / "metrics_validation.json").read_text())["metrics"]
        for folder in folders
        if (folder / "metrics_validation.json").exists()
    }
    measured = {
        name: json.loads((DOCS.parent / "benchmarks" / "results" / f"{name}.json").read_text())
        for name in ("students", "flagships", "frames")
    }
    external = {
        folder.name: json.loads((folder / "metrics.json").read_text())
        for folder in sorted((DOCS / "external").glob("*"))
        if (folder / "metrics.json").exists()
    }
    texts = Environment(loader=FileSystemLoader(DOCS), trim_blocks=True, lstrip_blocks=True)
    page = texts.get_template("RESULTS.md.jinja").render(
        **result,
        changes={folder.name: changes_of(folder) for folder in folders},
        validation=validation,
        means=means(result["runs"]),
        ablations=ablations,
        unseen=unseen,
        external=external,
        **measured,
        specificity_at=specificity_at,
        top_label_ece={folder.name: top_label_ece(folder) for folder in folders},
    )
    (DOCS / "RESULTS.md").write_text(page)


if __name__ == "__main__":
    main()
