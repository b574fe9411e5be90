"""Scoring over the processes that accelerate or torchrun launched, each a part of the films; alone, all of them."""

import csv
import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from pneumo_hf.config import LABELS, InputError
from pneumo_hf.data.columns import in_batches
from pneumo_hf.data.listing import FilmList
from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.inference.onnx import weights_digest
from pneumo_hf.inference.predictor import PREDICTION_COLUMNS, Predictor

logger = logging.getLogger(__name__)

PATIENCE = timedelta(days=30)  # with the slowest process: torch's own half hour is for training steps
JOB = "job.json"


def join_processes(device: str | None) -> tuple[PartialState, str | None]:
    """This process among those launched, and the device that is its own; only the main process logs.

    Args:
        device: the one asked for; None for a GPU each, where there are any.
    """
    # accelerate takes processes on the CPU for processes only if it is told that they are there.
    state = PartialState(cpu=device == "cpu" or not torch.accelerator.is_available(), timeout=PATIENCE)
    if not state.is_main_process:
        logging.getLogger().setLevel(logging.ERROR)
    return state, device or (str(state.device) if state.num_processes > 1 else None)


def own_part(films: int, batch_size: int) -> range:
    """The films of this process: contiguous, and whole batches, so that any number of processes scores the same ones.

    Args:
        films: how many there are in all.
    """
    state, batches = PartialState(), -(-films // batch_size)
    start, stop = (batches * index // state.num_processes for index in (state.process_index, state.process_index + 1))
    return range(start * batch_size, min(stop * batch_size, films))


def look_in_parts(predictor: Predictor, *films: FilmDataset) -> tuple[np.ndarray, np.ndarray]:
    """`predictor.look_at_films`, every process its part: logits `[N, 2]` and distances `[N]` of all, in every process.

    Args:
        films: the films as each of the predictor's members decodes them.
    """
    mine = np.array(own_part(len(films[0]), predictor.batch_size), dtype=np.int64)
    seen = np.empty((0, 2), np.float32), np.empty(0)
    if len(mine):
        seen = predictor.look_at_films(*(view.select(mine) for view in films))
    logits, distances = zip(*gather_object([seen]), strict=True)
    return np.concatenate(logits), np.concatenate(distances)


def score_to_csv(
    predictor: Predictor,
    films: FilmList,
    output: Path,
    arguments: dict,
    recalibrate: Callable[[float], float],
) -> Counter:
    """Score films into a CSV of `PREDICTION_COLUMNS`, in their order; memory does not grow with their number.

    Every process writes its part to the folder `{output}.parts`, line by line, and the main one joins them. Killed at
    any moment, the same command goes on behind the last whole batch on disk.

    Args:
        arguments: what else the scores depend on; with the checkpoints' weights and the list, it tells whether an
            unfinished CSV is of the same command.
        recalibrate: of the probabilities, after the decision.

    Returns:
        How many films have each flag, None for those that could not be read; in the main process only.

    Raises:
        InputError: the output is a folder, an unfinished CSV is of another command, or a process still works on it.
    """
    if output.is_dir():
        raise InputError(f"Is a directory: {output}")
    state, folder = PartialState(), output.with_name(f"{output.name}.parts")
    if (folder / JOB).exists():  # begun on another device, perhaps, or by an earlier version
        predictor.batch_size = json.loads((folder / JOB).read_text())["batch_size"]
    if output.exists():
        logger.info("%s is there already, and will be replaced once all films are scored", output)
    _take_up(
        folder,
        {
            **arguments,
            "processes": state.num_processes,
            "batch_size": predictor.batch_size,
            "films": len(films),
            "list": films.digest,
            "weights": [_digest(member) for member in predictor.members],
        },
    )
    parts = [folder / f"{index}-of-{state.num_processes}.jsonl" for index in range(state.num_processes)]
    part = parts[state.process_index]
    try:
        with FileLock(part.with_suffix(".lock"), blocking=False):
            _score_part(predictor, films, part, recalibrate)
    except Timeout as error:
        raise InputError(f"another process is still writing {part}: wait for it, or end it") from error
    state.wait_for_everyone()
    return _join(parts, output) if state.is_main_process else Counter()


def _take_up(folder: Path, job: dict) -> None:
    """Make the folder of the parts, or go on with the one there is if it is of the same job."""
    job = json.loads(json.dumps(job))
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / JOB).exists():
        partial = folder / f"{uuid4().hex[:12]}.partial"
        partial.write_text(json.dumps(job, indent=2))
        os.replace(partial, folder / JOB)  # by every process, each the same
    found = json.loads((folder / JOB).read_text())
    differing = [key for key in job if found.get(key) != job[key]]
    if differing:
        raise InputError(
            f"{folder} holds the unfinished CSV of another command, with other {', '.join(differing)}: repeat that "
            "command, or delete the folder"
        )


def _digest(predictor: Predictor) -> str:
    """Of a checkpoint's weights and settings."""
    settings = hashlib.blake2b(predictor.model.config.to_json_string().encode(), digest_size=12)
    return f"{weights_digest(predictor.model)} {settings.hexdigest()}"


def _score_part(predictor: Predictor, films: FilmList, part: Path, recalibrate: Callable[[float], float]) -> None:
    """Append the films of this process that are not there yet, a line of JSON each, a batch at a time."""
    state, mine = PartialState(), own_part(len(films), predictor.batch_size)
    done = _whole_lines(part, len(mine), predictor.batch_size)
    if done:
        logger.info("%d films have been scored already: going on from there", done)
    rows = predictor.score_rows(films.rows(mine.start + done, mine.stop))
    of_which = f" (part 1 of {state.num_processes})" if state.num_processes > 1 else ""
    with (
        part.open("ab") as file,
        tqdm(
            total=len(mine),
            initial=done,
            desc=f"Scoring films{of_which}",
            unit="film",
            disable=not state.is_main_process,
        ) as bar,
    ):
        for batch in in_batches(rows, predictor.batch_size):
            lines = (json.dumps(_columns(row, recalibrate)) + "\n" for row in batch)
            file.write("".join(lines).encode())
            file.flush()
            os.fsync(file.fileno())
            bar.update(len(batch))


def _columns(row: dict, recalibrate: Callable[[float], float]) -> list:
    """A scored row's values of `PREDICTION_COLUMNS`."""
    values = {**row, "path": row["file_name"], "label": "" if row["label"] is None else LABELS[row["label"]]}
    if row["probability"] is not None:  # decided already, at the threshold of the score as it was
        values["probability"] = recalibrate(row["probability"])
    return [values[column] for column in PREDICTION_COLUMNS]


def _whole_lines(part: Path, wanted: int, batch_size: int) -> int:
    """The films in a part; a torn line goes, and so does its batch, that the others are scored in the same company."""
    if not part.exists():
        return 0
    lines = size = films = kept = 0
    with part.open("r+b") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            lines, size = lines + 1, size + len(line)
            if lines % batch_size == 0 or lines == wanted:
                films, kept = lines, size
        file.truncate(kept)
    return films


def _join(parts: list[Path], output: Path) -> Counter:
    """The CSV from its finished parts, in place of an earlier one at a stroke; then the parts go."""
    folder, flags = parts[0].parent, Counter()
    joined = folder / "joined.csv"
    with joined.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(PREDICTION_COLUMNS)
        for part in parts:
            if not part.exists():
                raise InputError(f"{part} is not on this machine: --output must lie on a disk that all of them share")
            with part.open() as lines:
                for values in map(json.loads, lines):
                    writer.writerow(values)
                    flags[values[PREDICTION_COLUMNS.index("flag")]] += 1
        file.flush()
        os.fsync(file.fileno())
    os.replace(joined, output)
    for path in sorted(
        folder.iterdir(), key=lambda path: path.name == JOB
    ):  # the job last: it marks an unfinished CSV
        path.unlink()
    folder.rmdir()
    return flags
