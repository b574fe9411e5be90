"""Many films to one CSV, each of the processes that were launched scoring a part; killed, it resumes."""

import csv
import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from pneumo_hf.data.labels import LabelNames
from pneumo_hf.data.listing import FilmList
from pneumo_hf.data.predictions import PREDICTION_COLUMNS
from pneumo_hf.data.reading import in_batches
from pneumo_hf.errors import InputError
from pneumo_hf.inference.onnx import weights_digest
from pneumo_hf.inference.predictor import Predictor
from pneumo_hf.inference.scorer import Scorer
from pneumo_hf.labels import NEGATIVE, column_of
from pneumo_hf.runtime import Processes, keep_freed_memory

logger = logging.getLogger(__name__)

JOB = "job.json"
TINY = 1e-300


def score_files(
    scorer: Scorer,
    films: FilmList,
    output: Path,
    options: dict,
    recalibrate: Callable[[float], float],
    group: Processes,
) -> Counter:
    """Score films into a CSV (the scorer's `columns`), in their order; memory does not grow with their number.

    Every process writes its part to the folder `{output}.parts`, line by line, and the main one joins them. Killed at
    any moment, the same command resumes after the last whole batch on disk.

    Args:
        options: what else the scores depend on; with the checkpoints' weights and the list of films they decide
            whether an unfinished CSV is of the same command.
        recalibrate: of the probabilities, after the decision.

    Returns:
        How many films have each flag, None for those that could not be read; in the main process only.

    Raises:
        InputError: the output is a folder, an unfinished CSV is of another command, or a process still works on it.
    """
    keep_freed_memory()
    if output.is_dir():
        raise InputError(f"Is a directory: {output}")
    folder = output.with_name(f"{output.name}.parts")
    if (folder / JOB).exists():  # begun on another device, perhaps, or by an earlier version
        scorer.batch_size = json.loads((folder / JOB).read_text())["batch_size"]
    if output.exists():
        logger.info("%s is there already, and will be replaced once all films are scored", output)
    job = {
        **options,
        "processes": group.count,
        "batch_size": scorer.batch_size,
        "films": len(films),
        "list": films.digest,
        "weights": [_digest(member) for member in scorer.members],
    }
    _start_or_resume(folder, job)
    parts = [folder / f"{index}-of-{group.count}.jsonl" for index in range(group.count)]
    part = parts[group.index]
    try:
        with FileLock(part.with_suffix(".lock"), blocking=False):
            _score_part(scorer, films, part, recalibrate, group)
    except Timeout as error:
        raise InputError(f"another process is still writing {part}: wait for it, or end it") from error
    group.wait_for_all()
    return _join(parts, output, scorer.columns) if group.is_main else Counter()


def _start_or_resume(folder: Path, job: dict) -> None:
    """Make the folder of the parts, or accept the one there is if it is of the same job."""
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


def _score_part(
    scorer: Scorer, films: FilmList, part: Path, recalibrate: Callable[[float], float], group: Processes
) -> None:
    """Append the films of this process that are not there yet, a line of JSON each, a batch at a time."""
    mine = group.part(len(films), scorer.batch_size)
    done = _whole_lines(part, len(mine), scorer.batch_size)
    if done:
        logger.info("%d films have been scored already: resuming from there", done)
    names, columns = LabelNames(scorer.task.labels), scorer.columns
    rows = scorer.score_rows(films.rows(mine.start + done, mine.stop))
    title = "Scoring films" + (f" (part 1 of {group.count})" if group.count > 1 else "")
    bar = tqdm(total=len(mine), initial=done, desc=title, unit="film", disable=not group.is_main)
    with part.open("ab") as file, bar:
        for batch in in_batches(rows, scorer.batch_size):
            lines = (json.dumps(_values(row, names, columns, recalibrate)) + "\n" for row in batch)
            file.write("".join(lines).encode())
            file.flush()
            os.fsync(file.fileno())
            bar.update(len(batch))


def _values(row: dict, names: LabelNames, columns: Sequence[str], recalibrate: Callable[[float], float]) -> list:
    """A scored row's values of the columns."""
    number = names.named(row["label"], row["subtype"])
    values = {**row, "path": row["file_name"], "label": "" if number is None else names.labels[number]}
    if row["probability"] is not None:  # decided already, at the threshold of the score as it was
        values["probability"] = new = recalibrate(row["probability"])
        if len(names.labels) > 2:
            values[column_of(NEGATIVE)] = 1 - new
            for column in map(column_of, names.labels[1:]):
                values[column] = row[column] * new / max(row["probability"], TINY)
    return [values[column] for column in columns]


def _whole_lines(part: Path, wanted: int, batch_size: int) -> int:
    """Count the films in a part; a torn line is cut off with its batch, so that batches stay the same."""
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


def _join(parts: list[Path], output: Path, columns: Sequence[str]) -> Counter:
    """Write the CSV from its finished parts, replacing an earlier one in one step; then the parts are removed."""
    folder, flags = parts[0].parent, Counter()
    joined = folder / "joined.csv"
    with joined.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
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
