import json
import logging
from pathlib import Path

import pytest

from pneumo_hf.__main__ import main


def test_a_search_finds_a_rate_on_validation_and_goes_on(tiny_recipe, tmp_path: Path, caplog) -> None:
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
    assert "going on with 2 finished trials" in caplog.text and "--learning_rate" in caplog.text


def test_a_recipe_without_stage_two_has_no_rate_to_search(tiny_recipe, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["tune", *tiny_recipe, "--num_train_epochs", "0", "--output_dir", str(tmp_path)])
    assert "num_train_epochs is 0" in capsys.readouterr().err
