"""What cannot be written, and two that write to one folder, end in one line."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors.torch import save_file

from pneumo_hf.data.pixels import decode_films
from pneumo_hf.data.sources import load_data
from pneumo_hf.errors import InputError, one_line_errors
from pneumo_hf.imaging.processor import make_image_processor
from tests.conftest import write_films
from train_hf import main

ROOT = Path(__file__).parents[1]
LARGE = 200_000  # bytes, more than the disk of the test has


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 kB."""
    folder = tmp_path / "full"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)], capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def said(capsys: pytest.CaptureFixture, act: Callable[[], object]) -> str:
    with pytest.raises(SystemExit, match="2"), one_line_errors():
        act()
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_text("x" * LARGE),
        lambda path: np.save(path, np.zeros(LARGE)),
        lambda path: np.savez(path, x=np.zeros(LARGE)),
        lambda path: torch.save(torch.zeros(LARGE), path),
        lambda path: save_file({"x": torch.zeros(LARGE)}, path),
    ],
)
def test_a_full_disk_is_one_line_whoever_writes(write: Callable, full: Path, capsys: pytest.CaptureFixture) -> None:
    line = said(capsys, lambda: write(full / "file.npy"))
    assert line.startswith("error: nothing more can be written, the disk is full or read-only (")


def test_a_text_on_a_full_device_is_one_line(capsys: pytest.CaptureFixture) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    assert "No space left on device" in said(capsys, lambda: Path("/dev/full").write_text("x"))


def test_a_pixel_cache_that_has_no_room_is_an_error_and_no_crash(full: Path, tmp_path: Path) -> None:
    films = load_data(str(write_films(tmp_path / "films", {"train": (6, 6)})))["train"]
    with pytest.raises(OSError) as error:
        decode_films(films, make_image_processor(None, 224), full)
    assert error.value.errno == errno.ENOSPC


def test_a_read_only_disk_is_one_line(full: Path, tiny_recipe: list[str], capsys: pytest.CaptureFixture) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(full)], check=True)
    assert "Read-only file system" in said(capsys, lambda: (full / "notes.txt").write_text("x"))
    for folder in (full, full / "run"):
        with pytest.raises(InputError, match=f"cannot write to {folder}: Read-only file system"):
            main([*tiny_recipe, "--output_dir", str(folder)])


def test_a_folder_that_may_not_be_written_to_is_one_line(tiny_recipe: list[str], tmp_path: Path) -> None:
    if os.getuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(0o555)
    with pytest.raises(InputError, match=f"cannot write to {tmp_path}: Permission denied"):
        main([*tiny_recipe, "--output_dir", str(tmp_path)])


def test_another_error_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), one_line_errors():
        print(1 / 0)


def test_two_trainings_do_not_share_a_folder(tiny_recipe: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = [*tiny_recipe, "--output_dir", str(run)]
    run.mkdir()
    with FileLock(run / "training.lock"):  # what the first holds
        other = subprocess.run([sys.executable, "train_hf.py", *options], cwd=ROOT, capture_output=True, text=True)
    assert other.returncode == 2 and "Traceback" not in other.stderr
    assert f"error: another training writes to {run}: wait for it, or give another --output_dir" in other.stderr
    assert not (run / "checkpoints").exists()
    with pytest.raises(InputError, match="no such|nothing to resume"):  # it is let go however the training ends
        main([*options, "--resume_from_checkpoint", "true"])
    assert not list(run.iterdir())
