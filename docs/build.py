"""Write the generated pages of the manual from measured files: `python docs/build.py [results performance ...]`.

    python docs/build.py                                    results, quickstart, originals, performance and scaling
    python docs/build.py data --source chest_xray.zip       audits the whole set again
    python docs/build.py collect RUN_FOLDER=NAME            takes a run's figures into docs/results first
    python docs/build.py recalibration --source external_ieee8023.zip    measures the table in docs/evaluation.md again

A name is that of a recipe in configs/, perhaps with _seedN behind it.
"""

import argparse
import csv
import json
import re
import shutil
import statistics
from pathlib import Path

import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader
from scipy.special import expit
from sklearn.metrics import roc_curve
from torch.utils.flop_counter import FlopCounterMode

from pneumo_hf import Predictor, recalibrate
from pneumo_hf.config.parse import parse_args
from pneumo_hf.data.audit import audit
from pneumo_hf.data.duplicates import copy_pairs
from pneumo_hf.data.patients import patient_group
from pneumo_hf.data.predictions import log_odds, write_csv
from pneumo_hf.data.shortcuts import SIDE, linear_baselines, region_features
from pneumo_hf.data.sources import load_data
from pneumo_hf.data.splits import split_by_patient
from pneumo_hf.errors import InputError, one_line_errors
from pneumo_hf.evaluation.before_after import of_calibrated
from pneumo_hf.evaluation.compare import Run, compare_runs, delong, mcnemar
from pneumo_hf.evaluation.metrics import weighted_metrics
from pneumo_hf.evaluation.operating_points import choose_thresholds
from pneumo_hf.evaluation.recalibration import fit_recalibration
from pneumo_hf.labels import LABELS
from pneumo_hf.reporting.audit import FIGURES, write_audit
from pneumo_hf.reporting.comparison import forest
from pneumo_hf.reporting.page import save_figure
from pneumo_hf.training.recipe import recipe_values

DOCS = Path(__file__).parent
ROOT = DOCS.parent
MODEL = ROOT / "models" / "pneumo-efficientnet"
ORDER = (
    "baseline_cnn",
    "efficientnet_b0",
    "resnet50_top40",
    "resnet18_step",
    "resnet50_frozen_youden",
    "mobilenet_v2_clahe",
    "flagship",
    "flagship_efficientnet",
    "distill",
    "distill_robust",
    "three_class",
    "ensemble",
    "pneumo-efficientnet_224",
    "pneumo-efficientnet",
)
TWIN = "flagship_efficientnet_seed42"  # of three_class, but for the labels
KEPT_FIGURES = ("mean_films.png",)
SHOWN = {"roc_auc": "ROC AUC", "sensitivity": "sensitivity", "specificity": "specificity", "accuracy": "accuracy"}
BEFORE_AND_AFTER = {"roc_auc": "ROC AUC", "ece": "ECE", "brier": "Brier score"} | {
    name: name for name in ("sensitivity", "specificity")
}
OWN = {"dataset", "seed", "greater_is_better", "use_cpu", "bf16", "dataloader_pin_memory"}  # no changes of a recipe
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
    "robustness_onnx_vs_torch": 2.0,
    "rest_vs_bare_16": 0.9,
}
OWN_SCRIPTS = (
    "rest",
    "start",
    "alternatives",
)  # parts of a file of results that another script than the file's namesake writes
ASSUMED = {
    "cores_a_gpu": 16,
    "sustained_flops": 10e12,  # of a data-centre GPU: depthwise convolutions wait for memory, not for arithmetic
    "dollars_a_core_hour": 0.05,
    "dollars_a_gpu_hour": 4.0,  # its cores included
    "bytes_a_film": 400e3,  # a full-size JPEG
    "epochs": 5,
}


def render(page: str, **values) -> None:
    """Write docs/PAGE.md from its template."""
    pages = Environment(loader=FileSystemLoader(DOCS / "templates"), trim_blocks=True, lstrip_blocks=True)
    pages.filters["median"] = statistics.median
    (DOCS / f"{page}.md").write_text(pages.get_template(f"{page}.md.jinja").render(**values))


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def measured(name: str) -> dict[str, dict]:
    """The parts of a benchmark's result; none where it has not been run."""
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    return json.loads(path.read_text())["parts"] if path.exists() else {}


def family(name: str) -> str:
    return re.sub(r"_seed\d+$", "", name)


def kept_runs() -> list[Run]:
    """The runs of docs/results, in the order of the table."""
    metrics = json.loads((DOCS / "results" / "metrics.json").read_text())
    rows = sorted(read_rows(DOCS / "results" / "probabilities.csv"), key=lambda row: row["path"])
    labels, paths = np.array([row["label"] == "PNEUMONIA" for row in rows]).astype(int), [row["path"] for row in rows]
    names = sorted(metrics, key=lambda name: (ORDER.index(family(name)), name))
    return [Run(name, metrics[name], paths, labels, np.array([float(row[name]) for row in rows])) for name in names]


def collect(runs: list[str]) -> None:
    """Take runs' test figures into docs/results, and what they changed of their recipe into runs.csv."""
    folder = DOCS / "results"
    kept, table = json.loads((folder / "metrics.json").read_text()), read_rows(folder / "runs.csv")
    films = {row["path"]: row for row in read_rows(folder / "probabilities.csv")}
    for argument in runs:
        run, _, name = argument.rpartition("=")
        if family(name) not in ORDER:
            raise InputError(f"{argument}: after = comes a name, one of {', '.join(ORDER)}, perhaps with _seedN")
        report = Path(run) / "report" if (Path(run) / "report").is_dir() else Path(run)
        kept[name] = json.loads((report / "metrics.json").read_text()) | {"model": name}
        for row in read_rows(report / "predictions_test.csv"):
            films[row["path"]][name] = f"{float(row['probability']):.9g}"
        table = [row for row in table if row["run"] != name] + [described_run(Path(run), report, name, kept[name])]
    lines = ",\n".join(f'"{name}": {json.dumps(metrics)}' for name, metrics in kept.items())
    (folder / "metrics.json").write_text(f"{{\n{lines}\n}}\n")
    write_csv(folder / "probabilities.csv", ("path", "label", "patient_id", *kept), films.values())
    write_csv(folder / "runs.csv", table[0], table)
    results()


def described_run(run: Path, report: Path, name: str, metrics: dict) -> dict[str, str]:
    """A row of runs.csv: seed, time and machine, validation's figures, and what the run changed of its recipe."""
    training = metrics.get("training") or {}
    row = {"run": name, "changed of the recipe": "", "seed": str(training.get("seed", ""))}
    row["minutes"] = str(round(training["seconds"] / 60)) if training else ""
    row |= {key: str(training.get(key, "")) for key in ("machine", "precision")}
    validation = {}
    if (report / "metrics_validation.json").exists():
        validation = json.loads((report / "metrics_validation.json").read_text())["metrics"]
    for key in ("roc_auc", "specificity"):
        row[f"validation_{key}"] = f"{validation[key]['value']:.4f}" if validation else ""
    recipes = run / "recipe.yaml", ROOT / "configs" / f"{family(name)}.yaml"
    if all(path.exists() for path in recipes):
        done, meant = (recipe_values(parse_args(["--config", str(path)])) for path in recipes)
        changes = {key: done[key] for key in done if key not in OWN and done[key] != meant.get(key)}
        row["changed of the recipe"] = ", ".join(f"{key} {value}" for key, value in changes.items())
    return row


def results() -> None:
    """docs/results.md and the forest plot, from docs/results and docs/tried.csv."""
    kept = kept_runs()
    result = compare_runs(kept)
    save_figure(DOCS / "results" / "forest.png", lambda axes: forest(axes, result))
    families: dict[str, list[str]] = {}
    for run in kept:
        row = result["runs"][run.name]
        families.setdefault(family(run.name), []).append(run.name)
        fpr, tpr, _ = roc_curve(run.labels, run.probs)
        wanted = (360 / 390, 389 / 390)  # of two published pairs
        row["specificity_at"] = {at: float(1 - fpr[np.searchsorted(tpr, at)]) for at in wanted}
    seeds = {name: over_seeds([result["runs"][run] for run in members]) for name, members in families.items()}
    external = {
        folder.name: json.loads((folder / "metrics.json").read_text())
        for folder in sorted((DOCS / "external").iterdir())
    }
    runs = {row["run"]: row for row in read_rows(DOCS / "results" / "runs.csv")}
    tried = read_rows(DOCS / "tried.csv")
    values = {"families": families, "seeds": seeds, "how": runs, "tried": tried, "external": external}
    render("results", **result, **values, three=three_labels({run.name: run for run in kept}))


def three_labels(kept: dict[str, Run]) -> dict | None:
    """What the run of three labels says of each, and paired tests of its decision against that of two labels."""
    if "three_class" not in kept:
        return None
    three, two = kept["three_class"], kept[TWIN]
    tests = {"delong": delong(three.labels, three.probs, two.probs), "mcnemar": mcnemar(three.correct, two.correct)}
    return {**three.metrics["labels"], **tests, "twin": TWIN}


def over_seeds(runs: list[dict]) -> dict[str, dict[str, float]]:
    """Mean and range of every figure over the seeds of a recipe."""
    values = {key: [run["metrics"][key]["value"] for run in runs] for key in (*SHOWN, "ece")}
    return {
        key: {"mean": statistics.mean(found), "least": min(found), "most": max(found)} for key, found in values.items()
    }


def quickstart() -> None:
    """The table of the quickstart's three seeds, in docs/training.md."""
    write_block(DOCS / "training.md", quickstart_table(), "results")


def write_block(page: Path, table: str, name: str) -> None:
    """Put a table between the two marks of a page, `<!-- name -->` and `<!-- end of name -->`."""
    before, rest = page.read_text().split(f"<!-- {name} -->")
    after = rest.split(f"<!-- end of {name} -->")[1]
    page.write_text(f"{before}<!-- {name} -->\n{table}\n<!-- end of {name} -->{after}")


def block(page: Path, name: str) -> str:
    """What stands between the marks."""
    return page.read_text().split(f"<!-- {name} -->")[1].split(f"<!-- end of {name} -->")[0].strip()


def quickstart_table() -> str:
    """A row a seed, each figure with its 95 % interval."""
    lines = [f"| seed | {' | '.join(SHOWN.values())} | ECE |", "| --- " * (len(SHOWN) + 2) + "|"]
    for seed, run in json.loads((DOCS / "quickstart.json").read_text()).items():
        metrics = run["metrics"]
        cells = ["{value:.3f} [{0:.3f}, {1:.3f}]".format(*m["ci95"], **m) for m in map(metrics.get, (*SHOWN, "ece"))]
        lines.append(f"| {seed} | {' | '.join(cells)} |")
    return "\n".join(lines)


def originals() -> None:
    """The table of originals and copies, in docs/evaluation.md, and beside the shipped model what its card says."""
    write_block(DOCS / "evaluation.md", originals_table(), "originals")
    (MODEL / "report" / "originals.json").write_text(json.dumps(originals_pair(), indent=1) + "\n")


def originals_pair() -> dict:
    """The originals and their copies alone, of the shipped model."""
    part = measured("originals")["pairs"]
    assert part["model"] == MODEL.name, f"benchmarks/results/originals.json is of {part['model']}"
    rows = {row["way"]: row for row in part["rows"] if row["way"] in ("copies", "originals")}
    return {"threshold": part["threshold"], "films": part["films"], **rows}


def originals_table() -> str:
    """A row for each way that a film may take."""
    part = measured("originals")["pairs"]
    lines = ["| films | called, of those with pneumonia | not called, of the normal | abstained | mean change |"]
    lines.append("| --- " * 5 + "|")
    for row in part["rows"]:
        rates = [f"{row[name]['right']} of {row[name]['of']}" for name in ("sensitivity", "specificity")]
        lines.append(f"| {row['way']} | {' | '.join(rates)} | {row['abstained']} | {row['mean_change']:.3f} |")
    return "\n".join(lines)


def performance() -> None:
    """docs/performance.md, from benchmarks/results."""
    parts = {name: measured(name) for name in ("training", "serving", "scaling", "load", "gpu")}
    ratios = [
        (ratio, value, f"{part}.py" if part in OWN_SCRIPTS else f"{name}.py {part}")
        for name, found in parts.items()
        for part, result in found.items()
        for ratio, value in result["ratios"].items()
    ]
    render("performance", ratios=ratios, wanted=WANTED, **parts)


def scaling() -> None:
    """docs/scaling.md: what is counted, what is assumed (the rates above), and what follows."""
    serving, training, spread = measured("serving")["serving"], measured("training"), measured("scaling")
    ray = measured("ray")
    onnx, side, flops = serving["rows"]["onnx"], *arithmetic()
    cores, decode_ms = serving["machine"]["cpus"], onnx["parts_ms"]["decode"] + onnx["parts_ms"]["resize"]
    read_ms = statistics.median(onnx["batch16_ms_a_film"])  # decode and model, on all cores of the machine
    train_ms = statistics.median(training["step_lite0"]["rows"]["ours"])
    decoded = ASSUMED["cores_a_gpu"] * 1e3 / decode_ms  # a second, beside a GPU
    scored, trained = ASSUMED["sustained_flops"] / flops, ASSUMED["sustained_flops"] / flops / 3
    rows = []
    for job in ("score", "train"):
        for films in (10**5, 10**6, 10**8):
            hours = films * (read_ms if job == "score" else ASSUMED["epochs"] * train_ms) / 3.6e6
            rows.append((job, films, f"{cores} cores", hours, hours * cores * ASSUMED["dollars_a_core_hour"]))
            for gpus in (1, 8, 64):
                seconds = films / min(decoded, scored)
                if job == "train":
                    seconds = films / decoded + ASSUMED["epochs"] * films / trained
                hours = seconds / gpus / 3600
                where = f"{gpus} GPU{'s' * (gpus > 1)}"
                rows.append((job, films, where, hours, hours * gpus * ASSUMED["dollars_a_gpu_hour"]))
    costs = {"decode_ms": decode_ms, "read_ms": read_ms, "cores": cores, "train_ms": train_ms, "gflops": flops / 1e9}
    rates = {"decoded_a_second": decoded, "scored_a_second": scored, "trained_a_second": trained}
    counts = {"films": (10**5, 10**6, 10**8), "side": side}
    render("scaling", costs=costs, assumed=ASSUMED, rows=rows, spread=spread, ray=ray, **counts, **rates)


def arithmetic() -> tuple[int, float]:
    """Side in pixels, and floating-point operations of the shipped network on one film."""
    predictor = Predictor(MODEL, device="cpu")
    side = predictor.image_processor.size["height"]
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        predictor.model(pixel_values=torch.zeros(1, 3, side, side))
    return side, float(counter.get_total_flops())


def data(source: str) -> None:
    """docs/data.md and docs/data/: the audit of the whole set, and two ways to hold out a validation split."""
    folder = DOCS / "data"
    shutil.rmtree(folder, ignore_errors=True)
    found, survey = audit(load_data(source), Path(source).name, LABELS)
    write_audit(folder, found, survey, LABELS)
    for path in (folder / "index.html", *(folder / name for name in FIGURES if name not in KEPT_FIGURES)):
        path.unlink(missing_ok=True)  # what the page's tables say once more
    labels, patients = np.array(survey.labels), np.array(survey.patients)
    is_test, thumbnails = np.array(survey.splits) == "test", survey.thumbnails[np.arange(len(labels))]
    features = region_features(thumbnails)
    whole = thumbnails.reshape(len(labels), SIDE, 2, SIDE, 2).mean(axis=(2, 4))
    features["whole_film"] = whole.reshape(len(labels), -1).astype(np.float32)
    train, splits = np.flatnonzero(~is_test), {}
    copies = copy_pairs(np.array(survey.contents)[train], thumbnails[train])
    for method in ("random", "block"):
        by_fold = []
        for fold in range(5):
            rest, held_out = split_by_patient(patients[train], labels[train], 0.2, 42, method, fold, copies)
            rows, is_held_out = train[np.concatenate([rest, held_out])], np.arange(len(train)) >= len(rest)
            part = {name: values[rows] for name, values in features.items()}
            baselines = linear_baselines(part, labels[rows], patients[rows], is_held_out)
            by_fold.append(baselines["whole_film"]["value"])
            if fold == 0:
                splits[method] = described(labels[train][held_out], patients[train][held_out]) | {"floors": baselines}
        splits[method]["whole_film_by_fold"] = by_fold
    official = {"floors": linear_baselines(features, labels, patients, is_test)}
    splits["official test"] = described(labels[is_test], patients[is_test]) | official
    (folder / "splits.json").write_text(json.dumps(splits, indent=2) + "\n")
    data_page()


def described(labels: np.ndarray, patients: np.ndarray) -> dict:
    numbers = {}
    for prefix in ("IM-", "NORMAL2-IM-", "person"):
        ids = [patient_group(patient).split("-")[-1] for patient in patients if patient.startswith(prefix)]
        found = [int(re.sub(r"\D", "", one)) for one in ids]
        numbers[prefix] = [min(found), max(found)]
    films = {label: int((labels == number).sum()) for number, label in enumerate(LABELS)}
    return {"films": films, "patients": len(set(patients)), "ids": numbers}


def data_page() -> None:
    """docs/data.md from the files of an earlier audit."""
    found, splits = (json.loads((DOCS / "data" / f"{name}.json").read_text()) for name in ("audit", "splits"))
    figures = {name: caption for name, caption in FIGURES.items() if (DOCS / "data" / name).exists()}
    render("data", audit=found, splits=splits, figures=figures, labels=LABELS)


def recalibration(source: str) -> None:
    """docs/recalibration.json: another hospital's films, cross-fitted, and parts of the official test."""
    other = recalibrate(MODEL, source, report_only=True).report
    kept = ("dataset", "n", "n_patients", "films", "offset", "slope", "folds", "decision_threshold", "films_needed")
    shown = {name: other["metrics"][name] for name in BEFORE_AND_AFTER}
    found = {name: other[name] for name in kept} | {"metrics": shown}
    found["ece_of_calibrated_scores"] = other["ece_of_calibrated_scores"]["after"]
    values = {"external": found, "official": official_test_in_parts()}
    (DOCS / "recalibration.json").write_text(json.dumps(values, indent=2) + "\n")
    recalibration_block()


def recalibration_block() -> None:
    """The table of both sets, in docs/evaluation.md."""
    write_block(DOCS / "evaluation.md", recalibration_table(), "recalibration")


def official_test_in_parts(patients: int = 100, draws: int = 200) -> dict:
    """The shipped model recalibrated on some patients of the official test and measured on the rest, again and again.

    By the scores of its report. Of each figure the mean over the draws, and between what 95 % of them lie.
    """
    rows = read_rows(MODEL / "report" / "predictions_test.csv")
    labels, ids = (np.array([row[name] for row in rows]) for name in ("label", "patient_id"))
    labels, odds = (labels != "NORMAL").astype(int), log_odds(np.array([float(row["probability"]) for row in rows]))
    own, random, figures = Predictor(MODEL, device="cpu").settings, np.random.default_rng(0), []
    for _ in range(draws):
        local = np.isin(ids, random.choice(np.unique(ids), patients, replace=False))
        offset, slope = fit_recalibration(labels[local], odds[local], ids[local])
        probs, ones = expit(offset + slope * odds), np.ones((1, np.sum(~local)))
        cut = choose_thresholds(labels[local], probs[local], [own.method])[own.method]
        before = weighted_metrics(labels[~local], expit(odds)[~local], own.threshold, ones)
        after = weighted_metrics(labels[~local], probs[~local], cut, ones)
        row = {
            f"{name} {when}": part[name][0] for when, part in (("before", before), ("after", after)) for name in part
        }
        row |= {"ece calibrated": of_calibrated(probs[~local])["mean"], "films": local.sum(), "slope": slope}
        figures.append(row | {"ece at most .03": row["ece after"] <= 0.03})
    names = [f"{name} {when}" for name in BEFORE_AND_AFTER for when in ("before", "after")]
    result = {"patients": patients, "draws": draws}
    for name in (*names, "ece calibrated", "films", "slope", "ece at most .03"):
        values = np.array([row[name] for row in figures], float)
        result[name] = {"mean": values.mean(), "range95": np.percentile(values, [2.5, 97.5]).tolist()}
    return result


def recalibration_table() -> str:
    """Before and after, of both sets."""
    found = json.loads((DOCS / "recalibration.json").read_text())
    external, official = found["external"], found["official"]
    films = external["films"]
    head = f"{external['dataset']}, {films['NORMAL']} normal films and {films['PNEUMONIA']} of pneumonia"
    part = f"official test, {official['patients']} patients for the others"
    lines = [f"| | {head}: before | after | {part}: before | after |", "| --- " * 5 + "|"]
    for name in BEFORE_AND_AFTER:
        cells = ["{value:.3f} [{0:.3f}, {1:.3f}]".format(*m["ci95"], **m) for m in external["metrics"][name].values()]
        both = (official[f"{name} {when}"] for when in ("before", "after"))
        cells += ["{mean:.3f} [{0:.3f}, {1:.3f}]".format(*one["range95"], **one) for one in both]
        lines.append(f"| {BEFORE_AND_AFTER[name]} | {' | '.join(cells)} |")
    chance = external["ece_of_calibrated_scores"]["mean"], official["ece calibrated"]["mean"]
    return "\n".join([*lines, "| ECE of calibrated scores | | {:.3f} | | {:.3f} |".format(*chance)])


PAGES = {
    "results": results,
    "quickstart": quickstart,
    "originals": originals,
    "recalibration": recalibration_block,
    "performance": performance,
    "scaling": scaling,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", help=f"of {', '.join(PAGES)}; data; recalibration; collect RUN=NAME ...")
    parser.add_argument(
        "--source",
        help="of data, a set in Kaggle's layout; of recalibration, other films; else what was measured is used",
    )
    given = parser.parse_args()
    with one_line_errors():
        if given.pages[:1] == ["collect"]:
            collect(given.pages[1:])
        elif given.pages == ["recalibration"] and given.source:
            recalibration(given.source)
        elif given.pages == ["data"]:
            data(given.source) if given.source else data_page()
        else:
            for page in given.pages or PAGES:
                PAGES[page]()
