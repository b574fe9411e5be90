"""Scoring over many machines with Ray Data: actors read, decode and score films, before GPUs tasks decode for them.

Ray Data moves the work, and gives it to others when a worker dies. What has been scored is known from `Parts`, not
from Ray Data's own checkpoints: those first load the numbers of all rows into one process and then ask for a core and
a gigabyte to leave the finished ones out, for which two cores have no room beside two networks (Ray 2.60).
"""

import logging
import os
import pickle
import shutil
import tempfile
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from tqdm.auto import tqdm

from pneumo_hf.data.listing import FilmList
from pneumo_hf.data.reading import in_batches
from pneumo_hf.errors import InputError
from pneumo_hf.inference.parts import Parts
from pneumo_hf.inference.scorer import Decoder, Scorer
from pneumo_hf.inference.scoring import FILMS_A_PART
from pneumo_hf.inference.table import Rescale, RowValues
from pneumo_hf.runtime import keep_freed_memory

Load = Callable[[], tuple[Scorer, Rescale]]

MIB = 1 << 20
BLOCK_MIB = 16  # of decoded films, which become a part: 300 of 224 x 224 pixels
STORE_MIB_A_CORE, MOST_MIB = 256, 4096  # of shared memory, for films between decoding and scoring on GPUs


def score_with_ray(
    parts: Parts, films: FilmList, load: Load, decoder: Decoder, on_gpus: bool, workers: int | None = None
) -> None:
    """Score what the parts do not have, over the cluster of RAY_ADDRESS or else the cores of this machine.

    Workers may come and go: what one of them did not finish another one does. On CPUs each worker has a core, where
    it decodes what it scores; before GPUs the cores of all machines decode.

    Args:
        load: loads the network, in every worker; what it names must be within reach of all machines.
        on_gpus: whether to score on GPUs where there are any.
        workers: networks at once; by default as many as there are GPUs or else cores.

    Raises:
        InputError: Ray is not installed, or has fewer workers; an object store cannot be reached.
    """
    try:
        import ray
        from ray.exceptions import RayError
    except ImportError as error:
        raise InputError("--engine ray needs Ray: pip install 'pneumo-hf[ray]'") from error
    left = pieces(parts.left(len(films)), films.cuts(FILMS_A_PART))
    with _cluster():
        resources = ray.cluster_resources()
        kind = "GPU" if on_gpus and resources.get("GPU") else "CPU"
        room = int(resources.get(kind, 0))
        if room < (workers or 1):
            raise InputError(f"--workers {workers}: Ray has {room} of {kind}")
        try:
            _run(parts, films, left, load, decoder, kind, workers or room)
        except RayError as error:
            raise InputError(_reason(error, parts)) from error


def pieces(left: list[range], cuts: list[int]) -> list[range]:
    """Cut what is left into the work of a task each."""
    found = []
    for gap in left:
        inside = cuts[bisect_right(cuts, gap.start) : bisect_left(cuts, gap.stop)]
        found += map(range, (gap.start, *inside), (*inside, gap.stop))
    return found


@contextmanager
def _cluster() -> Iterator[None]:
    """Join the cluster of RAY_ADDRESS, or start one of this machine's cores, of which nothing stays behind."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is sent home
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    address, folder = os.environ.get("RAY_ADDRESS"), tempfile.mkdtemp(prefix="ray")
    try:
        with _no_stderr():  # on which Ray's own core says that its log is quiet
            if address:
                ray.init(**quiet)
            else:
                store = min(STORE_MIB_A_CORE * (os.cpu_count() or 1), MOST_MIB) * MIB
                ray.init("local", include_dashboard=False, object_store_memory=store, _temp_dir=folder, **quiet)
    except ConnectionError as error:
        raise InputError(f"no Ray cluster answers at RAY_ADDRESS={address}") from error
    try:
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Keep what is not Python off this process's stderr."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _run(
    parts: Parts, films: FilmList, left: list[range], load: Load, decoder: Decoder, kind: str, workers: int
) -> None:
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.target_max_block_size = BLOCK_MIB * MIB
    here, told = os.getcwd(), ray.put(films.told)
    work = [{"first": piece.start, "films": pickle.dumps(films.part(piece.start, piece.stop))} for piece in left]
    decode = partial(_decode, here=here, told=told, decoder=decoder)
    films_of_work, pool = ray.data.from_items(work, override_num_blocks=len(work)), ActorPoolStrategy(size=workers)
    if kind == "GPU":
        decoded = films_of_work.map_batches(partial(_packed, decode), batch_size=1, num_cpus=1)
        arguments: dict[str, Any] = {"fn_constructor_args": (here, load, parts), "num_gpus": 1, "num_cpus": 0}
        scored = decoded.map_batches(_Network, batch_size=None, compute=pool, **arguments)
    else:
        arguments = {"fn_constructor_args": (here, load, parts, decode), "num_cpus": 1}
        scored = films_of_work.map_batches(_DecodingNetwork, batch_size=1, compute=pool, **arguments)
    count = sum(map(len, left))
    with tqdm(total=len(films), initial=len(films) - count, desc="Scoring films", unit="film") as bar:
        for done in scored.iter_rows():
            bar.update(done["films"])
            films.matched += done["matched"]


class _Decoded(NamedTuple):
    """Films of a part: where they stand in the list, their rows and pixels, and how many the table knew."""

    first: int
    films: list
    matched: int


def _decode(work: dict, here: str, told: Any, decoder: Decoder) -> Iterator[_Decoded]:
    """Read and decode the films of a piece, a part's number of them at a time."""
    import ray

    _work_in(here)
    films, first = pickle.loads(work["films"][0]), int(work["first"][0])
    films.told = ray.get(told)
    for rows in in_batches(films.rows(0, len(films)), FILMS_A_PART):
        decoded = [({**film, "image": None}, pixels) for film, pixels in map(decoder, rows)]
        yield _Decoded(first, decoded, films.matched)
        films.matched = 0
        first += len(rows)


def _packed(decode: Callable[[dict], Iterator[_Decoded]], work: dict) -> Iterator[dict]:
    """Decode films for actors elsewhere: as columns, which Ray moves between machines."""
    for part in decode(work):
        matched = [part.matched] + [0] * (len(part.films) - 1)
        numbers = np.arange(part.first, part.first + len(part.films))
        yield {"number": numbers, "decoded": list(map(pickle.dumps, part.films)), "matched": matched}


class _Network:
    """An actor: it has the network, scores what was decoded, and adds it to the parts."""

    def __init__(self, here: str, load: Load, parts: Parts):
        _work_in(here)
        keep_freed_memory()
        self.scorer, recalibrate = load()
        self.values, self.parts = RowValues(self.scorer, recalibrate), parts

    def __call__(self, films: dict) -> Iterator[dict]:
        decoded, matched = list(map(pickle.loads, films["decoded"])), int(sum(films["matched"]))
        yield self.score(_Decoded(int(films["number"][0]), decoded, matched))

    def score(self, part: _Decoded) -> dict:
        batches = in_batches(part.films, self.scorer.batch_size)
        rows = [self.values(row) for batch in batches for row in self.scorer.score_batch(batch)]
        self.parts.add(part.first, rows)
        return {"films": [len(rows)], "matched": [part.matched]}


class _DecodingNetwork(_Network):
    """An actor on a CPU: it decodes what it scores, and nothing is moved between the two."""

    def __init__(self, here: str, load: Load, parts: Parts, decode: Callable[[dict], Iterator[_Decoded]]):
        super().__init__(here, load, parts)
        self.decode = decode

    def __call__(self, films: dict) -> Iterator[dict]:
        yield from map(self.score, self.decode(films))


def _work_in(folder: str) -> None:
    """Paths are as the caller wrote them, where the machine has them at all."""
    if os.path.isdir(folder):
        os.chdir(folder)


def _reason(error: Exception, parts: Parts) -> str:
    """Say in one line what ended the work: what was meant to be said, else what Ray says."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, InputError):
            return str(cause)
        cause = cause.__cause__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"Ray gave up ({lines[-1]}): what is scored lies in {parts.output}.parts, and the same command resumes"
