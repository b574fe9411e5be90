import json
import logging
from pathlib import Path

import pytest

from pneumo_hf.__main__ import main
from pneumo_hf.training import finetune
from pneumo_hf.training.trainer import XrayTrainer


def test_a_search_finds_a_rate_on_validation_and_resumes(tiny_recipe, tmp_path: Path, caplog) -> None:
    arguments = ["tune", *tiny_recipe, "--num_train_epochs", "2", "--output_dir", str(tmp_path), "--trials"]
    with caplog.at_level(logging.INFO):
        main([*arguments, "2"])
        first = json.loads((tmp_path / "tune.json").read_text())
        main([*arguments, "3"])
    result = json.loads((tmp_path / "tune.json").read_text())
    assert result["trials"][:2] == first["trials"] and len(result["trials"]) == 3
    rates = [trial["learning_rate"] for trial in result["trials"]]
    assert len(set(rates)) == 3 and all(1e-5 <= rate <= 3e-3 for rate in rates)
    assert len({trial["roc_auc"] for trial in result["trials"]}) > 1  # the rate does something
    assert result["best"]["roc_auc"] == max(trial["roc_auc"] for trial in result["trials"])
    assert "continuing with 2 finished trials" in caplog.text and "--learning_rate" in caplog.text


def test_every_trial_starts_from_the_same_probe(tiny_recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With averaged weights, which outlive a trial."""
    starts = []

    class Recorder(XrayTrainer):
        def training_step(self, model, *rest, **more):
            if self.state.global_step == 0:
                starts.append(sum(float(values.abs().sum()) for values in model.state_dict().values()))
            return super().training_step(model, *rest, **more)

    monkeypatch.setattr(finetune, "XrayTrainer", Recorder)
    options = ["--num_train_epochs", "2", "--ema_decay", "0.9", "--probe_epochs", "0"]
    options += ["--metric_for_best_model", "log_loss"]
    main(["tune", *tiny_recipe, *options, "--output_dir", str(tmp_path), "--trials", "3"])
    assert len(starts) == 3 and len(set(starts)) == 1
    result = json.loads((tmp_path / "tune.json").read_text())
    assert result["best"]["log_loss"] == min(trial["log_loss"] for trial in result["trials"])
    other = ["tune", *tiny_recipe, *options, "--dropout", "0.1", "--output_dir", str(tmp_path), "--trials", "1"]
    main(other)
    assert len(json.loads((tmp_path / "tune.json").read_text())["trials"]) == 1  # another recipe, another study


def test_a_recipe_without_stage_two_has_no_rate_to_search(tiny_recipe, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["tune", *tiny_recipe, "--num_train_epochs", "0", "--output_dir", str(tmp_path)])
    assert "num_train_epochs is 0" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["tune", *tiny_recipe, "--trials", "0", "--output_dir", str(tmp_path)])
    assert "one trial or more" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["tune", *tiny_recipe, "--wise_ft_alpha", "0.5", "--output_dir", str(tmp_path)])
    assert "--wise_ft_alpha 1" in capsys.readouterr().err
