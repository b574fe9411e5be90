"""Many films to one CSV or Parquet file; killed, it resumes."""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from pneumo_hf.data.listing import FilmList
from pneumo_hf.data.predictions import PREDICTION_COLUMNS
from pneumo_hf.data.reading import in_batches
from pneumo_hf.data.stores import is_address
from pneumo_hf.errors import InputError
from pneumo_hf.inference.onnx import weights_digest
from pneumo_hf.inference.parts import Parts
from pneumo_hf.inference.predictor import Predictor
from pneumo_hf.inference.scorer import Scorer
from pneumo_hf.inference.table import Rescale, RowValues, write_table
from pneumo_hf.runtime import keep_freed_memory

logger = logging.getLogger(__name__)

FILMS_A_PART = 512  # a multiple of every batch size, so that a part begins with a batch; what a kill costs, at most


def score_files(
    scorer: Scorer,
    films: FilmList,
    output: str,
    options: dict,
    recalibrate: Rescale,
    score: Callable[[Parts, FilmList], None] | None = None,
) -> Counter:
    """Score films into a CSV, or into `.parquet`, in their order; memory does not grow with their number.

    Until all are scored they lie in `{output}.parts`. Killed at any moment, the same command resumes from there.

    Args:
        output: a path, or an address in an object store.
        options: what else the scores depend on; with the checkpoints' weights and the list of films they decide
            whether an unfinished table is of the same command.
        recalibrate: of the probabilities, after the decision.
        score: another way to score the films that `Parts` does not have: `ray_engine`'s.

    Returns:
        How many films have each flag, None for those that could not be read.

    Raises:
        InputError: the output is a folder, an unfinished table is of another command, or a process still works on it.
    """
    if os.path.isdir(output):
        raise InputError(f"Is a directory: {output}")
    if os.path.exists(output):
        logger.info("%s is there already, and will be replaced once all films are scored", output)
    parts = Parts(output)
    weights = [_digest(member) for member in scorer.members]
    job = {**options, "films": len(films), "list": films.digest, "weights": weights, "columns": scorer.columns}
    job = json.loads(json.dumps(job))
    with _alone(parts):
        parts.start_or_resume(job)
        left = sum(map(len, parts.left(len(films))))
        if left < len(films):
            logger.info("%d films have been scored already: resuming with the others", len(films) - left)
        if score:
            score(parts, films)
        else:
            _score_here(scorer, films, parts, RowValues(scorer, recalibrate))
        assert not parts.left(len(films))
        flags = Counter()
        write_table(_counted(parts.rows(), flags), scorer.columns, parts.output, f"{parts.folder}/joined")
        parts.remove()
    return flags


@contextmanager
def _alone(parts: Parts) -> Iterator[None]:
    """Keep a second command from the same work, on one machine; elsewhere it would be in vain, and do no harm."""
    if is_address(parts.output):
        yield
        return
    os.makedirs(parts.folder, exist_ok=True)
    try:
        with FileLock(f"{parts.folder}/lock", blocking=False):
            yield
    except Timeout as error:
        raise InputError(f"another process is still writing {parts.output}: wait for it, or end it") from error


def _digest(predictor: Predictor) -> str:
    """Of a checkpoint's weights and settings."""
    settings = hashlib.blake2b(predictor.model.config.to_json_string().encode(), digest_size=12)
    return f"{weights_digest(predictor.model)} {settings.hexdigest()}"


def _score_here(scorer: Scorer, films: FilmList, parts: Parts, values: RowValues) -> None:
    """Score in this process what the parts do not have."""
    keep_freed_memory()
    left = parts.left(len(films))
    done = len(films) - sum(map(len, left))
    with tqdm(total=len(films), initial=done, desc="Scoring films", unit="film") as bar:
        for gap in left:
            rows = map(values, _seen(scorer.score_rows(films.rows(gap.start, gap.stop)), bar))
            first = gap.start
            for part in in_batches(rows, FILMS_A_PART):
                parts.add(first, part)
                first += len(part)


def _seen(rows: Iterable[dict], bar: tqdm) -> Iterator[dict]:
    for row in rows:
        yield row
        bar.update()


def _counted(rows: Iterable[list], flags: Counter) -> Iterator[list]:
    for row in rows:
        flags[row[PREDICTION_COLUMNS.index("flag")]] += 1
        yield row
