"""Scoring over many machines with Ray Data: films are read and decoded by tasks, and scored by actors.

Ray Data moves the work, and gives it to others when a worker dies. What has been scored is known from `Parts`, not
from Ray Data's own checkpoints: those first load the numbers of all rows into one process and then ask for a core and
a gigabyte to leave the finished ones out, for which two cores have no room beside two networks (Ray 2.60).
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pneumo_hf.data.listing import FilmList
from pneumo_hf.errors import InputError
from pneumo_hf.inference.parts import Parts
from pneumo_hf.inference.scorer import Decoder, Scorer
from pneumo_hf.inference.scoring import FILMS_A_PART
from pneumo_hf.inference.table import Rescale

logger = logging.getLogger(__name__)

Load = Callable[[], tuple[Scorer, Rescale]]
STORE_MIB_A_CORE = 256  # of shared memory on this machine, for films between decoding and scoring


def score_with_ray(
    parts: Parts, films: FilmList, load: Load, decoder: Decoder, gpus: bool, workers: int | None = None
) -> None:
    """Score what the parts do not have, over the cluster of RAY_ADDRESS or else the cores of this machine.

    Workers may come and go: what one of them did not finish another one does. On a CPU each worker has a core, where
    it decodes what it scores; before GPUs, the cores of all machines decode.

    Args:
        load: loads the network, in every worker; what it names must be within reach of all machines.
        gpus: whether a worker has a GPU, or else a core.
        workers: networks at once; by default as many as there is room for.

    Raises:
        InputError: Ray is not installed, or has no such workers; an object store cannot be reached.
    """
    try:
        import ray
        from ray.exceptions import RayError
    except ImportError as error:
        raise InputError("--engine ray needs Ray: pip install 'pneumo-hf[ray]'") from error
    left = pieces(parts, films)
    if not left:
        return
    with _cluster(workers):
        room = int(ray.cluster_resources().get("GPU" if gpus else "CPU", 0))
        if room < (workers or 1):
            raise InputError(f"Ray has {room} {'GPUs' if gpus else 'cores'} here: fewer than --workers")
        try:
            _run(parts, films, left, load, decoder, gpus, workers or room)
        except RayError as error:
            raise InputError(_reason(error)) from error


def pieces(parts: Parts, films: FilmList) -> list[range]:
    """Cut what is left into the work of a task each: no more than a few parts, and whole row groups of a shard."""
    cuts, found = films.cuts(FILMS_A_PART), []
    for gap in parts.left(len(films)):
        inside = [cut for cut in cuts if gap.start < cut < gap.stop]
        found += map(range, (gap.start, *inside), (*inside, gap.stop))
    return found


@contextmanager
def _cluster(workers: int | None) -> Iterator[None]:
    """Join the cluster of RAY_ADDRESS, or start one of this machine's cores; nothing of it stays behind."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is sent home
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")

    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "include_dashboard": False}
    address, folder = os.environ.get("RAY_ADDRESS"), None
    ...
