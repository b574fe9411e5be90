import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pneumo_hf.__main__ import main
from pneumo_hf.evaluation.compare import delong, mcnemar


def by_definition(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """DeLong's difference and its standard error from the kernel of every pair of a case and a control."""
    placements = []
    for scores in (first, second):
        cases, controls = scores[labels == 1], scores[labels == 0]
        kernel = (cases[:, None] > controls) + 0.5 * (cases[:, None] == controls)
        placements.append((kernel.mean(axis=1), kernel.mean(axis=0)))
    of_cases, of_controls = placements[0][0] - placements[1][0], placements[0][1] - placements[1][1]
    variance = of_cases.var(ddof=1) / len(of_cases) + of_controls.var(ddof=1) / len(of_controls)
    return of_cases.mean(), np.sqrt(variance)


def test_delong_by_its_definition_with_ties() -> None:
    random = np.random.default_rng(2)
    labels = (random.random(300) < 0.6).astype(int)
    first = np.round(labels + random.standard_normal(300), 1)  # ties
    second = np.round(0.7 * labels + 0.5 * first + random.standard_normal(300), 1)
    result = delong(labels, first, second)
    assert result["first"] == pytest.approx(roc_auc_score(labels, first))
    assert result["second"] == pytest.approx(roc_auc_score(labels, second))
    difference, error = by_definition(labels, first, second)
    assert (result["difference"], result["standard_error"]) == pytest.approx((difference, error))
    assert delong(labels, first, first)["p"] == 1


def test_delong_rejects_as_often_as_it_says() -> None:
    """Of 400 pairs of equally good scores about 5 % fall below .05."""
    random = np.random.default_rng(0)
    labels, below = np.repeat([0, 1], [80, 120]), 0
    for _ in range(400):
        shared = labels + random.standard_normal(200)
        pair = (shared + 0.5 * random.standard_normal(200) for _ in range(2))
        below += delong(labels, *pair)["p"] < 0.05
    assert 8 <= below <= 34  # 99 % of binomial(400, .05)


def test_mcnemar_counts_what_one_alone_calls_right() -> None:
    first, second = np.array([True] * 10 + [False] * 2 + [True] * 5), np.array([False] * 10 + [True] * 7)
    result = mcnemar(first, second)
    assert (result["only_first_right"], result["only_second_right"]) == (10, 2)
    assert result["p"] == pytest.approx(2 * sum([1, 12, 66]) / 2**12)  # the exact binomial tail, twice
    assert mcnemar(first, first)["p"] == 1


def test_runs_side_by_side(tiny_run: Path, tmp_path: Path, capsys) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_run, other)
    lines = (other / "report" / "predictions_test.csv").read_text().splitlines()
    header = lines[0].split(",")
    column, random = header.index("probability"), np.random.default_rng(0)
    rows = [line.split(",") for line in lines[1:]]
    for row in rows:
        row[column] = str(random.random())
    (other / "report" / "predictions_test.csv").write_text("\n".join([lines[0], *map(",".join, rows)]) + "\n")
    metrics = json.loads((other / "report" / "metrics.json").read_text())
    metrics["metrics"]["roc_auc"]["value"] = 0.5
    (other / "report" / "metrics.json").write_text(json.dumps(metrics))
    main(["compare", str(other), str(tiny_run), "--output_dir", str(tmp_path / "compare")])
    result = json.loads((tmp_path / "compare" / "compare.json").read_text())
    assert result["reference"] == tiny_run.name and "delong" not in result["runs"][tiny_run.name]
    assert result["runs"]["other"]["delong"]["p"] < 0.01 and result["runs"]["other"]["mcnemar"]["p"] < 0.05
    table = (tmp_path / "compare" / "compare.md").read_text().strip().splitlines()
    assert table[-1].startswith("| baseline: ") and "| other |" in capsys.readouterr().out
    curves, once = result["decision_curves"], json.loads((tiny_run / "report" / "metrics.json").read_text())
    own = once["decision_curve"]
    assert curves["runs"][tiny_run.name] == pytest.approx(own["model"], abs=1e-6)
    assert curves["treat_all"] == pytest.approx(own["treat_all"], abs=1e-6)
    assert max(curves["runs"]["other"][60:]) < max(curves["runs"][tiny_run.name][60:])
    page = (tmp_path / "compare" / "index.html").read_text()
    assert page.count("data:image/png") == 1 and "other" in page and "diagnos" in page


def test_runs_of_one_name_are_distinguished_by_their_folders(tiny_run: Path, tmp_path: Path) -> None:
    for parent in ("first", "second"):
        shutil.copytree(tiny_run, tmp_path / parent / "run")
    folders = [str(tmp_path / parent / "run") for parent in ("first", "second")]
    main(["compare", *folders, "--output_dir", str(tmp_path / "compare")])
    runs = json.loads((tmp_path / "compare" / "compare.json").read_text())["runs"]
    assert list(runs) == ["first/run", "second/run"]


def test_runs_of_other_films_are_refused(tiny_run: Path, tmp_path: Path, capsys) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_run, other)
    path = other / "report" / "predictions_test.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    for runs, message in (
        ([tiny_run, other], "not of the same films"),
        ([tiny_run], "two runs"),
        ([tmp_path], "no finished run"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["compare", *map(str, runs), "--output_dir", str(tmp_path / "compare")])
        assert message in capsys.readouterr().err
