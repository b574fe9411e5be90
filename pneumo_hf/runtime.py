"""How this process runs: its threads, its memory, its log, and the processes that accelerate launched beside it.

Imports neither torch nor transformers until a function needs them.
"""

import ctypes
import logging
import os
import platform
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from types import ModuleType
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST, NEVER = 2**31 - 1, -1  # bytes
STAND_INS = {  # what transformers asks of two large modules when it is imported
    "torch._dynamo": ("disable", "allow_in_graph", "assume_constant_result"),
    "scipy.optimize": ("linear_sum_assignment",),
}
PATIENCE = timedelta(days=30)  # with the slowest process: torch's own half hour is for training steps


def before_imports() -> None:
    """Set what torch and datasets read when they are imported: threads that sleep soon when they have lost their core,
    and no progress bars of tables."""
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")


def import_for_scoring() -> None:
    """Import transformers' models without what scoring never calls: in a third less time.

    transformers decorates parts of language models by torch's compiler, takes `DTensor` where torch has it, and one
    function of scipy for a loss. While it is imported here, STAND_INS have the names that it asks for, and torch seems
    built without `distributed`, as some builds are. Afterwards the real ones are there for whoever imports them. A
    process that may train does not call this.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 or "transformers.modeling_utils" in sys.modules:
        return
    import torch

    stand_ins = {name: ModuleType(name) for name in STAND_INS if name not in sys.modules}
    for name, module in stand_ins.items():
        vars(module).update(dict.fromkeys(STAND_INS[name], _undecorated))
    is_available, torch.distributed.is_available = torch.distributed.is_available, lambda: False
    sys.modules.update(stand_ins)
    try:
        from transformers import PreTrainedModel  # noqa: F401
    except (ImportError, AttributeError):  # a version that asks for more: whoever imports it next gets it whole
        pass
    finally:
        torch.distributed.is_available = is_available
        for name in stand_ins:
            del sys.modules[name]


def _undecorated(function: Any = None, *_: Any, **__: Any) -> Any:
    """Stand in for a decorator, with arguments or without."""
    return function if callable(function) else _undecorated


def start(level: int = logging.INFO) -> None:
    """Set up the log of a command: plain lines, nothing of other libraries."""
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils import logging as transformers_logging

    logging.basicConfig(level=level, format="%(message)s")
    for client in ("httpx", "httpx2"):  # gradio's and huggingface_hub's: they log every request
        logging.getLogger(client).setLevel(logging.WARNING)
    wanted = not are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()  # "Loading weights", at every checkpoint
    if wanted:
        enable_progress_bars()  # of huggingface_hub's downloads, which went with it


def keep_freed_memory() -> bool:
    """Keep large freed blocks for the next tensor, for a process that goes through batch after batch on a CPU.

    glibc gives blocks above 32 MiB back to the system at once, and every page of the next one is then mapped and
    cleared again: half the time of an EfficientNet's pass over a batch of 32. Kept, they cost memory: the process
    stays as large as it once was, up to twice what it had in use, for the gaps between the blocks.

    Returns:
        Whether it could: older glibc (2.33, say) will not, and no other C library can. Then nothing changes.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    # One without the other would be worse than neither: any of them ends the threshold's own growth from 128 KiB on.
    return bool(libc.mallopt(M_MMAP_THRESHOLD, LARGEST) and libc.mallopt(M_TRIM_THRESHOLD, NEVER))


@dataclass
class Processes:
    """This process among those that accelerate or torchrun launched; alone, number 0 of 1."""

    index: int = 0
    count: int = 1
    device: str | None = None  # the one of this process; None for the default

    @property
    def is_main(self) -> bool:
        return self.index == 0

    def main_first(self) -> AbstractContextManager:
        """Let the main process of each machine run the block before the others."""
        return _state().local_main_process_first() if self.count > 1 else nullcontext()

    def wait_for_all(self) -> None:
        if self.count > 1:
            _state().wait_for_everyone()

    def part(self, films: int, batch_size: int) -> range:
        """Select the films of this process, of `films` in all: contiguous and whole batches."""
        batches = -(-films // batch_size)
        start, stop = (batches * index // self.count for index in (self.index, self.index + 1))
        return range(start * batch_size, min(stop * batch_size, films))

    def gather(self, value: object) -> list:
        """Return the values of all processes, in order, in every process."""
        if self.count == 1:
            return [value]
        from accelerate.utils import gather_object

        return gather_object([value])


def processes(device: str | None = None) -> Processes:
    """Join the processes that were launched together, if there are any; only the main one logs.

    Args:
        device: the one asked for; None for a GPU each, where there are any.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 and not _is_joined():
        return Processes(device=device)
    import torch
    from accelerate import PartialState

    # accelerate takes processes on the CPU for processes only if it is told that they are there.
    state = PartialState(cpu=device == "cpu" or not torch.accelerator.is_available(), timeout=PATIENCE)
    if not state.is_main_process:
        logging.getLogger().setLevel(logging.ERROR)
    own = device or (str(state.device) if state.num_processes > 1 else None)
    return Processes(state.process_index, state.num_processes, own)


def end_processes() -> None:
    """Part in an orderly way: without it, one exit in ten of a run of several processes aborts."""
    if _is_joined():
        import torch

        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _is_joined() -> bool:
    import torch

    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _state():
    from accelerate import PartialState

    return PartialState()
