"""How seldom `monitor` alarms on calm films, and how soon on changed ones: `python benchmarks/monitoring.py`.

With the shipped model and the films that it was validated on, which are in the train folder of the whole set (--data),
and films of adults from elsewhere (--external, the ieee8023 collection).
  false_alarms  1,000 weeks of 200 films drawn from the validation films, patient by patient, each judged alone and
                with the three before it: against a reference drawn in the same way, and against the validation films
                themselves; and 400 weeks of 200 of these films, of random patients, against those of the others;
  shifts        streams of four weeks of 200 films, changed: the corruptions at severity 3, another window, adults
                (their size and blockiness left out, in which the copies differ), and twice as many films with
                pneumonia (60 % in place of 30 %). In how many streams an alarm was raised by each week, and what
                passed its limit most; the same by scores and flags alone, and without blockiness.
Weeks are drawn from films of which a patient has five at most, as `monitor` counts them.
Ratios: false alarms to the stated rate; the largest statistic of the first week to its limit, median of the streams.
Writes benchmarks/results/monitoring.json.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from common import MODEL, parser, write_part
from PIL import Image
from tqdm.auto import tqdm

from pneumo_hf.data.pixels import FilmDataset, decode_films
from pneumo_hf.data.sources import load_data
from pneumo_hf.evaluation.drift import (
    FLAG,
    NUMBERS,
    PATIENT,
    SCORE,
    WINDOW,
    Films,
    Grid,
    Limits,
    Pool,
    counted,
    draw,
    find_limits,
    number_patients,
    simulate,
)
from pneumo_hf.evaluation.monitoring import judge
from pneumo_hf.evaluation.reference import as_films, read_reference, read_rows
from pneumo_hf.evaluation.robustness import BATCH, CORRUPTIONS, SIDE, corrupt
from pneumo_hf.imaging.processor import make_image_processor
from pneumo_hf.inference.predictor import Predictor

WEEKS, SPLITS, SIZE, RATES, SEVERITY, ADULT = 1000, 400, 200, (0.01, 0.05), 3, 18
SHARES = 0.3, 0.6  # of films with pneumonia, before and after
REFERENCES = 10  # of few films with pneumonia: how soon more are noticed depends on which patients they are of
DARKEST, BRIGHTEST = 30, 210  # grey levels that another window shows as black and white
CACHE = "~/.cache/pneumo_hf"


def validation_films(data: Path) -> FilmDataset:
    """The films of the shipped model's validation, decoded at the size that they have."""
    names = [row["path"] for row in read_rows(MODEL / "report" / "predictions_validation.csv")]
    table = load_data(data)["train"]
    chosen = table.select(np.flatnonzero(np.isin(table["file_name"], names)))
    return decode_films(chosen, make_image_processor(None, SIDE), CACHE)[0]


def with_labels(reference: Films) -> Films:
    """Add the column "label" to the reference's films, those of each patient that count."""
    rows = read_rows(MODEL / "report" / "predictions_validation.csv")
    texts = {name: np.array([row[name] for row in rows]) for name in ("label", PATIENT)}
    return reference | {"label": counted(texts)["label"]}


def in_batches(films: FilmDataset) -> Iterator[torch.Tensor]:
    for start in range(0, len(films), BATCH):
        yield films.__getitems__(range(start, min(start + BATCH, len(films))))["pixel_values"]


def scored(predictor: Predictor, films: FilmDataset, change: Callable[[torch.Tensor], torch.Tensor]) -> Films:
    """What `predict --details` finds of changed films."""
    pictures = (Image.fromarray(film[0].numpy()) for batch in in_batches(films) for film in change(batch))
    return score_pictures(predictor, films, pictures)


def score_pictures(predictor: Predictor, films: FilmDataset, pictures: Iterator[Image.Image]) -> Films:
    predictor.details = True
    rows = [
        {"image": picture, "patient_id": str(patient)}
        for picture, patient in zip(pictures, films.patient_ids, strict=True)
    ]
    found = predictor.score_rows(rows, read=lambda film: film)
    texts = [{name: "" if row.get(name) is None else str(row[name]) for name in COLUMNS} for row in found]
    return counted(as_films(MODEL, texts))


COLUMNS = ("path", PATIENT, SCORE, FLAG, *NUMBERS)


def another_window(films: torch.Tensor) -> torch.Tensor:
    """Films as a reader set to a narrower window shows them."""
    return ((films.float() - DARKEST) * 255 / (BRIGHTEST - DARKEST)).round().clamp(0, 255).to(torch.uint8)


def take(films: Films, rows: np.ndarray) -> Films:
    return {name: values[rows] for name, values in films.items()}


def week_of(films: Films, size: int, random: np.random.Generator) -> np.ndarray:
    """The rows of so many films, patients drawn with replacement."""
    patients = number_patients(films[PATIENT])
    by_patient = np.split(np.argsort(patients, kind="stable"), np.cumsum(np.bincount(patients))[:-1])
    drawn = [by_patient[patient] for patient in random.integers(len(by_patient), size=size)]
    return np.concatenate(drawn)[:size]


def limits_by_week(reference: Films, columns: list[str], rate: float) -> tuple[Grid, list[Limits]]:
    grid = Grid.of(reference, columns)
    return grid, [find_limits(reference, grid, [SIZE] * weeks, rate) for weeks in range(1, WINDOW + 1)]


def weeks_of_the_reference(reference: Films, grid: Grid) -> Iterator[tuple[dict, dict]]:
    """As `simulate` yields, of a reference that is the very films the weeks are drawn from."""
    pool, patients, random = Pool(reference, grid), number_patients(reference[PATIENT]), np.random.default_rng(1)
    weeks, once = [draw(patients, SIZE, WEEKS, random) for _ in range(WINDOW)], np.ones((WEEKS, len(patients)))
    yield pool.statistics(weeks[-1], once), pool.statistics(np.sum(weeks, axis=0), once)


def alarms(weeks: Iterator[tuple[dict, dict]], limits: Limits) -> float:
    """The share of weeks that raise one."""
    found = []
    for alone, together in weeks:
        ratios = [values / limits.batch[name] for name, values in alone.items()]
        ratios += [values / limits.window[name] for name, values in together.items()]
        found.append(np.max(ratios, axis=0) > 1)
    return float(np.concatenate(found).mean())


def a_new_week(films: Films, columns: list[str], random: np.random.Generator) -> bool:
    """Whether a week of films that no draw has seen raises an alarm, against those of all other patients."""
    patients = number_patients(films[PATIENT])
    place = random.permutation(patients.max() + 1)[patients]
    order = np.argsort(place, kind="stable")
    week, rest = order[:SIZE], order[SIZE:]
    rest = rest[~np.isin(patients[rest], patients[week])]
    reference = take(films, rest)
    grid = Grid.of(reference, columns)
    return judge([take(films, week)], reference, grid, find_limits(reference, grid, [SIZE], RATES[0]))["alarm"]


def measure_false_alarms(reference: Films, columns: list[str]) -> None:
    rows, ratios, random = [], {}, np.random.default_rng(2)
    for rate in RATES:
        grid = Grid.of(reference, columns)
        limits = find_limits(reference, grid, [SIZE] * WINDOW, rate)
        drawn = alarms(simulate(reference, grid, [SIZE] * WINDOW, WEEKS, seed=1), limits)
        same = alarms(weeks_of_the_reference(reference, grid), limits)
        rows.append({"stated": rate, "drawn_reference": drawn, "validation_itself": same})
        ratios[f"false_alarms_vs_stated_{rate}"] = drawn / rate
    found = [a_new_week(reference, columns, random) for _ in tqdm(range(SPLITS), desc="New weeks", unit="week")]
    rows.append({"stated": RATES[0], "new_weeks": float(np.mean(found)), "weeks": SPLITS})
    write_part("monitoring", "false_alarms", ratios, rows, weeks=WEEKS, films_a_week=SIZE)


def watch(references: list[tuple[Films, Callable[[], Films]]], columns: list[str], streams: int) -> dict:
    """In how many of the streams an alarm is raised by each week, and by what in the first.

    Args:
        references: each with what draws a next week; they share the streams.
    """
    limits_of = [limits_by_week(reference, columns, RATES[0]) for reference, _ in references]
    by_week, first, ratios = np.zeros(WINDOW, int), Counter(), []
    for stream in range(streams):
        (reference, next_week), (grid, limits) = (one[stream % len(references)] for one in (references, limits_of))
        weeks, raised = [], False
        for week in range(WINDOW):
            weeks.append(next_week())
            found = judge(weeks, reference, grid, limits[week])
            raised |= found["alarm"]
            by_week[week] += raised
            if week == 0:
                first[found["nearest"]["column"]] += 1
                ratios.append(found["nearest"]["of_limit"])
    return {"alarm_by_week": by_week.tolist(), "largest": first.most_common(1)[0][0], "of_limit": np.median(ratios)}


def measure_shifts(reference: Films, columns: list[str], data: Path, external: Path | None, streams: int) -> None:
    predictor, random = Predictor(MODEL, device="cpu"), np.random.default_rng(0)
    films = validation_films(data)
    changes = {kind: (lambda batch, kind=kind: corrupt(batch, kind, SEVERITY)) for kind in CORRUPTIONS}
    changed = {
        kind: scored(predictor, films, change) for kind, change in (changes | {"window": another_window}).items()
    }
    if external:
        table = load_data(external, label_map={"COVID19": "PNEUMONIA"})["train"]
        table = table.select(np.flatnonzero(np.array([age or 0 for age in table["age"]]) >= ADULT))
        adults, _ = decode_films(table, make_image_processor(None, SIDE), CACHE)
        pictures = (Image.fromarray(film[0].numpy()) for batch in in_batches(adults) for film in batch)
        changed["adults"] = score_pictures(predictor, adults, pictures)
        changed["adults"]["blockiness"][:] = np.nan
    rows, ratios = [], {}
    streams_of = {
        name: [(reference, lambda films=films: take(films, week_of(films, SIZE, random)))]
        for name, films in changed.items()
    }
    streams_of["prevalence"] = [of_prevalences(reference, random) for _ in range(REFERENCES)]
    for name, against in tqdm(streams_of.items(), desc="Streams", unit="shift"):
        others = [column for column in columns if column != "blockiness"]
        whole, alone, rest = (watch(against, some, streams) for some in (columns, [SCORE], others))
        rows.append({"shift": name, **whole, "scores_and_flags_alone": alone, "without_blockiness": rest})
        ratios[f"{name}_vs_limit"] = whole["of_limit"]
    facts = {"streams": streams, "films_a_week": SIZE, "false_alarms": RATES[0], "severity": SEVERITY}
    write_part("monitoring", "shifts", ratios, rows, **facts)


def of_prevalences(films: Films, random: np.random.Generator) -> tuple[Films, Callable[[], Films]]:
    """A reference of few films with pneumonia, and how to draw a week of twice as many."""
    normal, ill = (take(films, np.flatnonzero(films["label"] == label)) for label in ("NORMAL", "PNEUMONIA"))

    def mixed(size: int, share: float) -> Films:
        few = round(size * share)
        parts = take(ill, week_of(ill, few, random)), take(normal, week_of(normal, size - few, random))
        return {name: np.concatenate([part[name] for part in parts]) for name in films}

    size = round(len(normal[FLAG]) / (1 - SHARES[0]))
    few = take(ill, np.isin(ill[PATIENT], random.permutation(np.unique(ill[PATIENT]))[: patients_for(ill, size)]))
    reference = {name: np.concatenate([normal[name], few[name]]) for name in films}
    return reference, lambda: mixed(SIZE, SHARES[1])


def patients_for(films: Films, size: int) -> int:
    """How many patients have the films that a reference of this size has of them."""
    return round(len(np.unique(films[PATIENT])) * size * SHARES[0] / len(films[FLAG]))


PARTS = {"false_alarms": measure_false_alarms, "shifts": measure_shifts}


def main() -> None:
    options = parser(__doc__, PARTS, repeats=50)
    options.add_argument("--data", type=Path, help="of shifts: the whole Kermany set, as Kaggle has it")
    options.add_argument("--external", type=Path, help="of shifts: films of adults, with a column age")
    given = options.parse_args()
    torch.set_num_threads(1)
    reference = with_labels(read_reference(MODEL)[0])
    columns = [name for name in NUMBERS if name in reference]
    for part in given.parts or PARTS:
        if part == "false_alarms":
            measure_false_alarms(reference, columns)
        else:
            measure_shifts(reference, columns, given.data, given.external, given.repeats)


if __name__ == "__main__":
    main()
