"""The folder of a run while it is made: the checkpoints that a killed one resumes from, and the log."""

import csv
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from transformers.integrations import get_reporting_integration_callbacks

from pneumo_hf import runtime
from pneumo_hf.config.training_arguments import XrayTrainingArguments
from pneumo_hf.errors import InputError

logger = logging.getLogger(__name__)

JOB = "job.json"
LOCK = "training.lock"
CHECKPOINTS = "checkpoints"  # below the run folder, until the run is finished


def start_run(arguments: XrayTrainingArguments) -> None:
    """Make the run folder and let the main process report how the run goes.

    Raises:
        InputError: the folder cannot be made, or what `report_to` names is unknown or not installed.
    """
    runtime.start(logging.INFO if arguments.process_index == 0 else logging.ERROR)
    runtime.keep_freed_memory()
    try:
        Path(arguments.output_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {arguments.output_dir}: {error.strerror}") from error
    try:
        for callback in get_reporting_integration_callbacks(arguments.report_to):
            callback()
    except (RuntimeError, ValueError, ImportError) as error:
        raise InputError(f"report_to {', '.join(arguments.report_to)}: {error}") from error


@contextmanager
def writing_alone(arguments: XrayTrainingArguments) -> Iterator[None]:
    """Let no other training write to the run folder meanwhile.

    Raises:
        InputError: one does, or nobody can.
    """
    if arguments.process_index:
        yield
        return
    lock = FileLock(Path(arguments.output_dir) / LOCK, blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(
            f"another training writes to {arguments.output_dir}: wait for it, or give another --output_dir"
        ) from error
    except OSError as error:
        raise InputError(f"cannot write to {arguments.output_dir}: {error.strerror}") from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def find_checkpoint(arguments: XrayTrainingArguments, job: dict) -> Path | None:
    """Find the last whole checkpoint of a killed run, if it shall be resumed; otherwise empty the folder for new ones.

    Args:
        job: what a resumed run must share with the killed one, or validation would hold films trained on before.

    Raises:
        InputError: there is nothing to resume in the run folder, no such checkpoint, or it is of another job; or there
            is something to resume, and it was not asked for.
    """
    folder = Path(arguments.output_dir) / CHECKPOINTS
    wanted = arguments.resume_from_checkpoint
    if wanted in (None, "false", "False"):
        if reached := _last_whole(folder):
            raise InputError(
                f"an unfinished run is in {arguments.output_dir}, and got as far as {reached.name}: "
                f"--resume_from_checkpoint resumes it; to start again, remove {folder}"
            )
        if (folder.parent / "config.json").exists():
            logger.warning("%s holds a finished run, which this one will replace", arguments.output_dir)
        if arguments.process_index == 0:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(exist_ok=True)
            (folder / JOB).write_text(json.dumps(job))
        return None
    if wanted not in ("true", "True"):
        if not (Path(wanted) / "trainer_state.json").is_file():
            raise InputError(f"no checkpoint to resume from in {wanted}")
        _assert_same_job(Path(wanted).parent, job)
        return Path(wanted)
    if not folder.is_dir():
        raise InputError(f"nothing to resume: no unfinished run in {arguments.output_dir}")
    last = _last_whole(folder)
    if last:
        _assert_same_job(folder, job)
        return last
    logger.warning("no whole checkpoint in %s yet: starting from the beginning", arguments.output_dir)
    if arguments.process_index == 0:
        (folder / JOB).write_text(json.dumps(job))
    return None


def _last_whole(folder: Path) -> Path | None:
    whole = sorted(folder.glob("checkpoint-*/trainer_state.json"), key=lambda p: int(p.parent.name.split("-")[1]))
    while whole:
        try:
            json.loads(whole[-1].read_text())  # written last: whole only if it parses
            return whole[-1].parent
        except (OSError, json.JSONDecodeError):  # or removed by the main process meanwhile
            whole.pop()
    return None


def _assert_same_job(folder: Path, job: dict) -> None:
    try:
        begun = json.loads((folder / JOB).read_text())
    except (OSError, json.JSONDecodeError):  # of a checkpoint from elsewhere, or killed while it was written
        return
    job = json.loads(json.dumps(job))
    if former := sorted(set(begun) - set(job)):
        raise InputError(
            f"the run in {folder.parent} was begun by another version of pneumo_hf ({', '.join(former)}): resume it "
            f"with that version, or remove {folder} to start again"
        )
    other = [f"{key} {begun.get(key)}" for key, value in job.items() if begun.get(key, value) != value]
    if other:
        raise InputError(f"the run in {folder.parent} was begun with {', '.join(other)}: resume it with the same")


def remove_checkpoints(arguments: XrayTrainingArguments) -> None:
    """Delete the optimizer states of a finished run."""
    shutil.rmtree(Path(arguments.output_dir) / CHECKPOINTS, ignore_errors=True)


def write_history(history: list[dict], path: Path) -> None:
    """Write the log as CSV: a line a logged step or evaluation, the columns in the order of their first appearance."""
    columns = list(dict.fromkeys(key for row in history for key in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)


def keep_history(history: list[dict], arguments: XrayTrainingArguments) -> None:
    """Keep the log of stage one for a resumed run."""
    if arguments.process_index == 0:
        (Path(arguments.output_dir) / CHECKPOINTS / "stage1.json").write_text(json.dumps(history))


def read_kept_history(arguments: XrayTrainingArguments) -> list[dict]:
    """Read the log of stage one of the killed run."""
    path = Path(arguments.output_dir) / CHECKPOINTS / "stage1.json"
    return json.loads(path.read_text()) if path.exists() else []
