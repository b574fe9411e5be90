"""Several processes, really launched: they train as one does, with whole weights or sharded, and survive a kill."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from safetensors.torch import load_file

from pneumo_hf.__main__ import main
from tests.conftest import as_options, write_films
from tests.training.families import tiny_checkpoint
from train_hf import main as train

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs" / "accelerate"
TWO = (sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / "cpu_2.yaml"))
PATIENCE = 400  # seconds, of which it takes a fifth on cores of its own
FAMILIES = "clip", "dinov2_with_registers", "siglip"  # with parts that no score depends on
SAME_SUMS = {  # what keeps the sums of two half batches those of one: nothing drawn, no statistics of a batch
    "freeze_batch_norm": "true",
    "augmentation": "none",
    "dropout": 0,
    "early_stopping_patience": 0,
    "logging_steps": 1,
}
BOTH_RANKS = """
import os, sys
import torch
from pneumo_hf import runtime
from pneumo_hf.__main__ import main as command
from train_hf import main

end_processes, runtime.end_processes = runtime.end_processes, lambda: None  # once, after all
recipe, evaluation, families = (part.split("\\n") for part in sys.argv[1:])
own = "rank_" + os.environ["RANK"]
main([*recipe, "--output_dir", own])
open(own + ".seed", "w").write(str(torch.initial_seed()))
for name in sorted(os.listdir("backbones")):
    main([*families, "--model_name_or_path", "backbones/" + name, "--output_dir", "families/" + name])
command(evaluation)
end_processes()
"""
SHARDED = """
import os, sys
from accelerate import state
from accelerate.utils import DistributedType
from transformers import TrainerCallback
from pneumo_hf.training import trainer
from train_hf import main

kinds, init, last = set(), trainer.XrayTrainer.__init__, float(sys.argv[2])
prepare = state.PartialState.__init__

def as_on_gpus(self, *args, **options):  # on CPUs accelerate would not shard, in silence
    prepare(self, *args, **options)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU

state.PartialState.__init__ = as_on_gpus

class Watch(TrainerCallback):
    def on_step_end(self, args, state, control, model=None, **_):
        if state.max_steps > 2:  # stage two
            kinds.update(type(weight.data).__name__ for weight in model.parameters() if weight.requires_grad)
    def on_epoch_begin(self, args, state, control, **_):
        if state.epoch >= last:
            os._exit(9)

def watched(self, *args, **options):
    init(self, *args, **options)
    self.add_callback(Watch())

trainer.XrayTrainer.__init__ = watched
main(sys.argv[3:])
open(sys.argv[1], "w").write(" ".join(kinds))
"""


def start(*command: object, cwd: Path = ROOT) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    options = {"cwd": cwd, "env": environment, "text": True}
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **options)


def run(*command: object, cwd: Path = ROOT) -> str:
    process = start(*command, cwd=cwd)
    try:
        log = process.communicate(timeout=PATIENCE)[1]
    except subprocess.TimeoutExpired:
        kill(process)
        raise
    assert process.returncode == 0, log
    return log


def kill(process: subprocess.Popen) -> None:
    """SIGKILL, at once, to the launcher and to the processes that it launched, which would outlive it."""
    for victim in (*psutil.Process(process.pid).children(recursive=True), process):
        victim.kill()


def read_csv(path: Path) -> list[dict]:
    return list(csv.DictReader(path.open(newline="")))


def figures(report: Path) -> dict:
    return json.loads((report / "metrics.json").read_text())


def recipe_of(folder: Path) -> list[str]:
    return as_options(
        model_name_or_path="baseline-cnn",
        dataset=folder / "films",
        validation_split="given",
        cache_dir=folder / "cache",
        image_size=48,
        probe_epochs=2,
        num_train_epochs=4,
        learning_rate="5e-3",
        use_cpu="true",
        **SAME_SUMS,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_run: Path, films_folder: Path) -> Path:
    """What one process does, in `alone` and `evaluated_alone`, and what two do that are launched once for all tests.

    They train 20 steps of 16 films, each into a folder of its own, `rank_0` or `rank_1`; then FAMILIES; and evaluate.
    """
    folder = tmp_path_factory.mktemp("scale_out")
    counts = {"train": (32, 48), "validation": (14, 19), "test": (16, 21)}  # odd numbers: the last batches are uneven
    write_films(folder / "films", counts)
    write_films(folder / "others", {"test": (40, 41)})
    for family in FAMILIES:
        tiny_checkpoint(family, folder / "backbones" / family)
    recipe = recipe_of(folder)
    train([*recipe, "--per_device_train_batch_size", "16", "--output_dir", str(folder / "alone")])
    data = ["--data", str(folder / "others"), "--cache_dir", str(folder / "cache")]
    evaluation = ["evaluate", "--model", str(tiny_run), "--device", "cpu", *data, "--output_dir"]
    main([*evaluation, str(folder / "evaluated_alone")])
    families = as_options(
        dataset=films_folder,
        cache_dir=folder / "cache",
        image_size=32,
        per_device_train_batch_size=8,
        probe_epochs=1,
        num_train_epochs=1,
        augmentation="mild",
        use_cpu="true",
    )
    (folder / "both.py").write_text(BOTH_RANKS)
    parts = [*recipe, "--per_device_train_batch_size", "8"], [*evaluation, "evaluated"], families
    run(*TWO, "both.py", *("\n".join(part) for part in parts), cwd=folder)
    return folder


def test_two_processes_learn_as_one_of_the_same_global_batch(folder: Path) -> None:
    alone, two = (read_csv(folder / name / "report" / "history.csv") for name in ("alone", "rank_0"))
    losses = [[float(row["loss"]) for row in log if row["stage"] == "2" and row["loss"]] for log in (alone, two)]
    assert len(losses[0]) == 20
    np.testing.assert_allclose(losses[1], losses[0], atol=1e-3)
    first, again = (figures(folder / name / "report") for name in ("alone", "rank_0"))
    assert first["n"] == again["n"] == 37
    for name, metric in first["metrics"].items():
        assert again["metrics"][name]["value"] == pytest.approx(metric["value"], abs=1e-3), name


def test_every_process_draws_by_a_seed_of_its_own(folder: Path) -> None:
    seeds = [(folder / f"rank_{rank}.seed").read_text() for rank in range(2)]
    assert seeds[0] != seeds[1]


def test_gathered_validation_metrics_count_no_film_twice(folder: Path) -> None:
    """33 films over two processes: one more would shift the log loss by percents."""
    alone, two = (
        [row for row in read_csv(folder / name / "report" / "history.csv") if row["eval_log_loss"]]
        for name in ("alone", "rank_0")
    )
    assert len(alone) == 6
    for name in ("eval_log_loss", "eval_roc_auc"):
        np.testing.assert_allclose(*([float(row[name]) for row in log] for log in (two, alone)), atol=1e-4)


def test_only_the_main_process_writes(folder: Path) -> None:
    alone, first, other = (
        {path.name for path in (folder / name).rglob("*") if path.is_file()} for name in ("alone", "rank_0", "rank_1")
    )
    assert first == alone
    assert other <= {"rng_state_1.pth"}  # each process's random numbers belong to a checkpoint to resume from


@pytest.mark.parametrize("family", FAMILIES)
def test_two_processes_train_what_has_parts_that_no_score_depends_on(folder: Path, family: str) -> None:
    """Mask tokens and pooling layers that get no gradient: a process that waits for one would wait for ever."""
    assert figures(folder / "families" / family / "report")["n"] == 40


def test_evaluate_over_two_processes_gives_the_figures_of_one(folder: Path) -> None:
    one, two = (figures(folder / name) for name in ("evaluated_alone", "evaluated"))
    assert one["n"] == 81
    assert two == one
    assert (folder / "evaluated" / "index.html").exists()


def test_fsdp_shards_the_weights_resumes_and_saves_the_checkpoint_of_whole_ones(folder: Path, tmp_path: Path) -> None:
    """FSDP2 over gloo, killed after two epochs of four: the weights are gathered for every save."""
    config, run_dir = tmp_path / "fsdp.yaml", tmp_path / "run"
    own = {"num_processes: 8": "num_processes: 2\nuse_cpu: true\nmain_process_port: 0"}
    text = (CONFIGS / "fsdp.yaml").read_text()
    for there, here in own.items():
        assert there in text
        text = text.replace(there, here)
    config.write_text(text)
    (tmp_path / "sharded.py").write_text(SHARDED)
    recipe = [*recipe_of(folder), "--per_device_train_batch_size", "8", "--output_dir", run_dir]
    launch = (sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, tmp_path / "sharded.py")
    killed = start(*launch, tmp_path / "kinds", 2, *recipe)
    assert killed.communicate(timeout=PATIENCE)[1].count("stage 2  epoch") == 2
    assert killed.returncode and not (run_dir / "model.safetensors").exists()
    run(*launch, tmp_path / "kinds", 9, *recipe, "--resume_from_checkpoint")
    assert (tmp_path / "kinds").read_text() == "DTensor"  # in training no process had the weights whole
    whole, sharded = (load_file(path / "model.safetensors") for path in (folder / "rank_0", run_dir))
    assert whole.keys() == sharded.keys()
    for name, weight in whole.items():
        np.testing.assert_allclose(sharded[name].numpy(), weight.numpy(), atol=1e-4, err_msg=name)
    first, again = (figures(path / "report") for path in (folder / "rank_0", run_dir))
    for name, metric in first["metrics"].items():
        assert again["metrics"][name]["value"] == pytest.approx(metric["value"], abs=1e-4), name


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_every_config(path: Path) -> None:
    config = load_config_from_file(str(path))
    assert config.num_processes == {"cpu_2": 2, "multi_node": 16}.get(path.stem, 8)
    asked = launch_command_parser().parse_args(["--config_file", str(path), "train_hf.py"])
    launched = _validate_launch_command(asked)[0]
    assert launched.use_fsdp if path.stem == "fsdp" else launched.multi_gpu
    assert path.stem in (ROOT / "docs" / "training.md").read_text()


@pytest.mark.parametrize("command", [["-m", "pneumo_hf"], [str(ROOT / "app.py")], [str(ROOT / "train_hf.py")]])
def test_threads_of_a_command_sleep_when_one_of_them_has_no_core(command: list[str]) -> None:
    environment = {**os.environ, "OMP_DISPLAY_ENV": "VERBOSE", "PYTHONPATH": str(ROOT)}  # of GNU's OpenMP as it starts
    ours = {key: value for key, value in environment.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    for own, expected in ({}, "5000"), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "passive"}, "0"):
        done = subprocess.run(
            [sys.executable, *command, "--help"], env=ours | own, capture_output=True, text=True, check=True
        )
        if "GOMP_" not in done.stderr:
            pytest.skip("this PyTorch has another OpenMP")
        assert set(re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)) == {expected}  # of every copy of it
