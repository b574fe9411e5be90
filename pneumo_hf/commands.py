"""What each command of `pneumo_hf.__main__` does with its arguments; the heavy imports wait until it runs."""

import argparse
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from pneumo_hf.config import LABELS, InputError, write_csv

logger = logging.getLogger(__name__)

FLAGS = ("review", "abstain", "not_chest_xray")
FITTED = 6000  # train films that shortcut floors are fitted on, at most
CLASSES = {2: LABELS, 3: ("NORMAL", "BACTERIA", "VIRUS")}


def audit(arguments: argparse.Namespace) -> None:
    """Read every film of a data set and write what is wrong with it."""
    from pneumo_hf.data.audit import audit as audit_data

    data, copies, title, labels = _read_data(arguments)
    folder = Path(arguments.output_dir)
    found = audit_data(data, title, labels, folder)
    exact, near = found["duplicates"]["exact"], found["duplicates"]["near"]
    leaks = found["leakage"]
    for split, films in found["counts"].items():
        logger.info("%s: %s", split, ", ".join(f"{count} {label}" for label, count in films.items()))
    logger.info(
        "%d unreadable, %d of a wrong extension, %d exact copies in %d groups, %d near-duplicate pairs",
        *(len(found["unreadable"]), len(found["wrong_extension"])),
        *(exact["spare_films"], exact["groups"], near["pairs"]),
    )
    logger.info(
        "leakage: %d patients, %d exact copies and %d near-duplicates in two splits; %d groups of conflicting labels",
        *(len(leaks["patients"]), len(leaks["exact"]), len(leaks["near"])),
        exact["conflicting_labels"] + near["conflicting_labels"],
    )
    if copies:
        logger.info("%d copies between the sources were left out", len(copies))
    logger.info("the report: %s", folder / "index.html")


def prepare(arguments: argparse.Namespace) -> None:
    """Write Parquet shards with the films in them, a card, and on request push them to the Hub."""
    from pneumo_hf.data.prepare import prepare as prepare_data
    from pneumo_hf.data.prepare import push_data

    folder = Path(arguments.output_dir)
    for source in map(Path, arguments.data):
        here, there = source.resolve(), folder.resolve()
        if source.exists() and (here == there or here in there.parents or there in here.parents):
            raise InputError(f"{folder} and {source} lie in one another: choose another --output_dir")
    data, copies, title, labels = _read_data(arguments)
    rejected = prepare_data(data, title, labels, folder, arguments.anonymize, arguments.drop_leaks)
    listed = folder.with_name(f"{folder.name}.rejected.csv")  # beside the folder: it names files
    write_csv(listed, ("path", "reason"), copies + rejected)
    logger.info("%d films left out, with reasons in %s; the data set: %s", len(copies + rejected), listed, folder)
    if arguments.push_to_hub:
        logger.info("pushed to %s", push_data(folder, arguments.push_to_hub, arguments.private))


def _read_data(arguments: argparse.Namespace) -> tuple:
    """The data, the copies that merging dropped, a title without folders, and the labels."""
    from pneumo_hf.data.columns import parse_label_map
    from pneumo_hf.data.merge import load_sources
    from pneumo_hf.data.sources import read_source

    labels, label_map = CLASSES[arguments.classes], parse_label_map(arguments.label_map)
    title = " + ".join(Path(source).name for source in arguments.data)
    if arguments.streaming:
        if len(arguments.data) > 1:
            raise InputError("--streaming reads one Hub data set; several sources are merged only when they are whole")
        return read_source(arguments.data[0], labels, label_map, streaming=True), [], title, labels
    return *load_sources(arguments.data, labels, label_map), title, labels


def evaluate(arguments: argparse.Namespace) -> None:
    """Score a labelled split and write the report."""
    from pneumo_hf.data.columns import assert_every_label, parse_label_map
    from pneumo_hf.data.pixels import decode_films
    from pneumo_hf.data.sources import load_data
    from pneumo_hf.evaluation.ensemble import load_predictor
    from pneumo_hf.evaluation.external import against_home, home_metrics
    from pneumo_hf.evaluation.gallery import explain_films
    from pneumo_hf.evaluation.metrics import FEW_PATIENTS
    from pneumo_hf.evaluation.report import evaluate_films, write_report, write_split
    from pneumo_hf.evaluation.robustness import robustness
    from pneumo_hf.inference.memory import keep_freed_memory
    from pneumo_hf.inference.parts import join_processes, look_in_parts
    from pneumo_hf.training.run_folder import end_processes

    if arguments.robustness and len(arguments.model) > 1:
        raise InputError("--robustness is measured for one checkpoint at a time: give one --model")
    keep_freed_memory()
    state, device = join_processes(arguments.device)
    data = load_data(arguments.data, label_map=parse_label_map(arguments.label_map))
    table = _the_split(data, arguments)
    predictor = load_predictor(arguments.model, device, arguments.flip, arguments.backend)
    if arguments.operating_point:
        predictor.use(arguments.operating_point)
    views = []
    for member in predictor.members:
        with state.local_main_process_first():  # the others find them in the cache
            films, rejected = decode_films(table, member.image_processor, arguments.cache_dir)
        views.append(films)
    message = f"{arguments.data}: the {arguments.split} split has no {{}} films that can be read"
    assert_every_label(films.labels, LABELS, message)
    model = " + ".join(Path(checkpoint).name for checkpoint in arguments.model)
    seen = look_in_parts(predictor, *views)
    end_processes()
    if not state.is_main_process:
        return
    _tell_if_learnt(predictor, films, arguments.split)
    floors = _floors(data, films=views[0], image_processor=predictor.members[0].image_processor, arguments=arguments)
    title = Path(arguments.data).name
    metrics, rows = evaluate_films(predictor, views, model, title, arguments.split, floors, seen)
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    config = predictor.members[0].model.config.to_dict() if len(views) == 1 else {}
    metrics["explanation"] = explain_films(folder, predictor, views, metrics, rows)
    if len(views) == 1 and (home := home_metrics(predictor.name, films)):
        probs = np.array([row["probability"] for row in rows])
        metrics["external"] = against_home(films.labels, probs, metrics, home, predictor.learnt_kermany)
    if arguments.robustness:
        metrics["robustness"] = robustness(predictor, views[0], predictor.threshold)
    write_split(folder, metrics, rows)
    write_csv(folder / "rejected.csv", ("path", "reason"), rejected)
    write_report(folder, metrics, rows, rejected, validation=None, config=config)
    for sentence in metrics.get("external", {}).get("words", ()):
        logger.info("%s", sentence)
    if metrics["n_patients"] < FEW_PATIENTS:
        logger.warning("%d patients are few: the bootstrap's intervals are too narrow", metrics["n_patients"])
    for name in ("roc_auc", "sensitivity", "specificity", "accuracy"):
        metric = metrics["metrics"][name]
        logger.info("%-12s %.4f [%.4f, %.4f]", name, metric["value"], *metric["ci95"])
    logger.info("%d films, %d unreadable; the report: %s", len(films), len(rejected), folder / "index.html")


def _floors(data: Mapping, films, image_processor, arguments: argparse.Namespace) -> dict:
    """The shortcut floors of the split, where the data has train films to fit them on."""
    from pneumo_hf.data.pixels import decode_films
    from pneumo_hf.data.shortcuts import shortcut_floors

    if arguments.split == "train" or "train" not in data:
        return {}
    step = max(1, -(-len(data["train"]) // FITTED))
    fitted = data["train"].select(range(0, len(data["train"]), step))
    train, _ = decode_films(fitted, image_processor, arguments.cache_dir)
    return shortcut_floors(train, films) if len(set(train.labels)) == 2 else {}


def _tell_if_learnt(predictor, films, split: str) -> None:
    """Warn where a checkpoint of the Kermany set scores that set's train films."""
    if split == "train" and any(one.learnt_kermany for one in predictor.members) and all(films.table["subtype"]):
        logger.warning("the checkpoint may have learnt these films, the Kermany set's train: score its test instead")


def _the_split(data: Mapping, arguments: argparse.Namespace):
    if arguments.split not in data:
        raise InputError(f"{arguments.data} has no {arguments.split} split, only {', '.join(data)}: see --split")
    return data[arguments.split]


def predict(arguments: argparse.Namespace) -> None:
    """Score films, labelled or not, over all processes that were launched, and write a CSV."""
    from pneumo_hf.data.listing import list_films
    from pneumo_hf.evaluation.ensemble import load_predictor
    from pneumo_hf.inference.memory import keep_freed_memory
    from pneumo_hf.inference.parts import join_processes, score_to_csv
    from pneumo_hf.training.run_folder import end_processes

    keep_freed_memory()
    _, device = join_processes(arguments.device)
    films, output = list_films(*arguments.paths), Path(arguments.output)
    predictor = load_predictor(arguments.model, device, arguments.flip, arguments.backend)
    if arguments.operating_point:
        predictor.use(arguments.operating_point)
    names = ("model", "operating_point", "flip", "backend", "prevalence", "calibration")
    job = {name: vars(arguments)[name] for name in names}
    recalibrate = _recalibration(arguments, predictor)
    flags = score_to_csv(predictor, films, output, job, recalibrate)
    end_processes()
    if flags:  # the main process
        scored = flags.total() - flags[None]
        logger.info("films scored: %d; unreadable: %d (see the column error); %s", scored, flags[None], output)
        if not scored:
            raise InputError(f"none of the films could be read; the reasons are in {output}")
        logger.info("for review: %d; abstained: %d; no chest X-rays: %d", *(flags[flag] for flag in FLAGS))
        if arguments.calibration != "isotonic":  # whose steps hold films of either side
            logger.info("review is from probability %.4g on (%s)", recalibrate(predictor.threshold), predictor.method)
            if predictor.limits:
                lower, upper = sorted(predictor.limits[key] for key in ("normal_up_to", "pneumonia_from"))
                if predictor.limits["pneumonia_from"] < predictor.threshold:  # as `decide` has it
                    upper = max(upper, predictor.threshold)
                above = ", also above the threshold" if predictor.threshold < upper else ""
                logger.info(
                    "between %.4g and %.4g no label is sure: abstained%s",
                    recalibrate(lower),
                    recalibrate(upper),
                    above,
                )


def _recalibration(arguments: argparse.Namespace, predictor) -> Callable[[float], float]:
    """What `predict` does to a score before it is written: isotonic regression, and another prevalence."""
    from pneumo_hf.evaluation.calibration import at_prevalence, fit_isotonic
    from pneumo_hf.evaluation.ensemble import validation_scores

    steps, learnt = [], predictor.learnt_prevalence
    if arguments.calibration == "isotonic":
        labels, probs = validation_scores(predictor)
        steps.append(fit_isotonic(labels, probs))
        learnt = float(labels.mean())  # the share of pneumonia that the isotonic scores answer to
    if arguments.prevalence is not None:
        if not 0 < arguments.prevalence < 1:
            raise InputError(f"--prevalence is a share between 0 and 1, not {arguments.prevalence}")
        if learnt is None:
            raise InputError(f"{predictor.name} does not tell the prevalence that its scores are calibrated to")
        steps.append(lambda probs: at_prevalence(probs, learnt, arguments.prevalence))

    def recalibrate(probability: float) -> float:
        for step in steps:
            probability = float(step(np.array([probability]))[0])
        return probability

    return recalibrate


def compare(arguments: argparse.Namespace) -> None:
    """Set runs on the same films side by side."""
    from pneumo_hf.evaluation.compare import compare as compare_runs

    folder = Path(arguments.output_dir)
    compare_runs(arguments.runs, folder)
    print((folder / "compare.md").read_text())
    logger.info("the page: %s", folder / "index.html")


def tune(arguments: argparse.Namespace) -> None:
    """Search the learning rate of a recipe on validation."""
    from transformers import set_seed

    from pneumo_hf.config import parse_args
    from pneumo_hf.data.columns import parse_label_map
    from pneumo_hf.data.merge import load_sources
    from pneumo_hf.data.pixels import decode_splits
    from pneumo_hf.inference.memory import keep_freed_memory
    from pneumo_hf.training.checkpoint import recipe_values
    from pneumo_hf.training.distillation import assert_saw_no_more
    from pneumo_hf.training.models import load_model
    from pneumo_hf.training.run_folder import start_run
    from pneumo_hf.training.tune import search_learning_rate

    keep_freed_memory()
    model_args, data_args, training_args = parse_args(arguments.rest)
    start_run(training_args)
    set_seed(training_args.seed)
    data, _ = load_sources(data_args.dataset, label_map=parse_label_map(data_args.label_map))
    model, image_processor = load_model(model_args, data_args.cache_dir)
    films, _ = decode_splits(data, image_processor, data_args, training_args.seed)
    assert_saw_no_more(model_args, training_args, films)
    recipe = recipe_values((model_args, data_args, training_args))
    recipe.pop("learning_rate")
    name = hashlib.blake2b(json.dumps(recipe, default=str).encode(), digest_size=6).hexdigest()
    result = search_learning_rate(model, image_processor, films, training_args, arguments.trials, name)
    metric = training_args.metric_for_best_model
    for trial in sorted(result["trials"], key=lambda trial: trial[metric], reverse=training_args.greater_is_better):
        logger.info("learning rate %.2e: validation %s %.4f", trial["learning_rate"], metric, trial[metric])
    logger.info("use it: train_hf.py ... --learning_rate %.2e", result["best"]["learning_rate"])


def export(arguments: argparse.Namespace) -> None:
    """Write a checkpoint as ONNX, if it agrees."""
    from pneumo_hf.data.pixels import decode_films
    from pneumo_hf.data.sources import load_data
    from pneumo_hf.hub.export import AGREEMENT
    from pneumo_hf.hub.export import export as export_checkpoint
    from pneumo_hf.imaging.processor import load_image_processor
    from pneumo_hf.inference.predictor import Predictor

    table = _the_split(load_data(arguments.data), arguments)
    Predictor(arguments.model, device="cpu")  # what is no checkpoint is said before anything is decoded
    films, _ = decode_films(table, load_image_processor(arguments.model), arguments.cache_dir)
    folder = Path(arguments.output_dir)
    difference = export_checkpoint(arguments.model, films, folder)
    logger.info(
        "%s: probabilities differ by at most %.1e on %d films (allowed: %.0e)",
        *(folder / "onnx" / "model.onnx", difference, len(films), AGREEMENT),
    )


def push(arguments: argparse.Namespace) -> None:
    """Upload a finished run to the Hub, and on request a Space that serves it."""
    from pneumo_hf.hub.push import push as push_run

    root, hardware = Path(__file__).parents[1], "zero-a10g" if arguments.zero_gpu else None
    if hardware and not arguments.space:
        raise InputError("--zero_gpu is for a Space: give --space OWNER/NAME")
    for address in push_run(
        Path(arguments.model), arguments.repo_id, arguments.private, root, arguments.space, hardware
    ):
        logger.info("pushed to %s", address)
