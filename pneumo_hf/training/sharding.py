"""Weights that accelerate shares out over the processes (FSDP2), where its configuration says so."""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

M = TypeVar("M", bound=nn.Module)


def shards_weights() -> bool:
    """Return whether this process was launched with configs/accelerate/fsdp.yaml or one like it."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false") == "true"


@contextmanager
def whole_afterwards(model: M) -> Iterator[M]:
    """Lend a model to a trainer that may shard it; afterwards the model itself has the trained weights, whole.

    A module that was once sharded cannot be sharded again, as stage two would, nor moved or saved as it is.
    """
    if not shards_weights():
        yield model
        return
    lent = copy.deepcopy(model)
    if isinstance(lent, PreTrainedModel):
        lent.get_input_embeddings = lambda: None  # accelerate asks, and networks of pictures raise
    yield lent
    trained = lent.state_dict().items()
    model.load_state_dict({name: v.full_tensor() if isinstance(v, DTensor) else v for name, v in trained})
