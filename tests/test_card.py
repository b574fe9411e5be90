"""The model card: the run's own numbers, in words and in the Hub's metadata, and only what there is."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from pneumo_hf.data.digests import HELD_OUT
from pneumo_hf.errors import InputError
from pneumo_hf.hub.card import WITH_FILMS, write_card
from pneumo_hf.reporting.names import METRIC_NAMES, chosen_for

ROOT = Path(__file__).parents[1]
TEMPLATE = ROOT / "model_card.md"
SHIPPED = ROOT / "models" / "pneumo-efficientnet"
SECTIONS = [
    "Intended use",
    "Out of scope",
    "Results",
    "Operating points",
    "Worth using?",
    "Calibration",
    "When it does not answer",
    "Subgroups",
    "Shortcut baselines",
    "What the score rests on",
    "How to use",
    "Training",
    "Environmental cost",
    "Limitations",
    "Data",
    "Citation",
]


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_run, tmp_path / "run")
    return tmp_path / "run"


def changed(path: Path, change: Callable[[dict], object]) -> None:
    value = yaml.safe_load(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def card_of(run: Path) -> ModelCard:
    write_card(run, TEMPLATE)
    return ModelCard.load(run / "README.md")


def sections(card: ModelCard) -> list[str]:
    return re.findall(r"^## (.+)$", card.text, re.MULTILINE)


def test_every_number_is_of_the_runs_files(run: Path) -> None:
    card, config = card_of(run), json.loads((run / "config.json").read_text())
    metrics = json.loads((run / "report" / "metrics.json").read_text())
    stated = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert stated == {name: metric["value"] for name, metric in metrics["metrics"].items()}
    for name, metric in metrics["metrics"].items():
        low, high = metric["ci95"]
        assert f"| {METRIC_NAMES[name]} | {metric['value']:.3f} | {low:.3f} to {high:.3f} |" in card.text
    for chosen, point in zip(config["operating_points"], metrics["operating_points"], strict=True):
        figures = [chosen[key] for key in ("threshold", "sensitivity", "specificity")]
        figures += [point[key] for key in ("sensitivity", "specificity", "ppv", "npv")]
        row = " | ".join("undefined" if figure is None else f"{figure:.3f}" for figure in figures)
        assert f"| {chosen['name']} | {chosen_for(chosen['name'])} | {row} |" in card.text
    assert f"temperature {config['calibration_temperature']:.2f}" in card.text
    assert f"{metrics['training']['seconds']:.0f} s on {metrics['training']['machine']}" in card.text
    for name, floor in metrics["shortcut_floors"].items():
        assert f"| {name.replace('_', ' ')} | {floor['value']:.3f} [" in card.text


def test_its_sections_come_in_order_and_its_figures_exist(run: Path) -> None:
    shutil.copy(SHIPPED / HELD_OUT, run / HELD_OUT)  # as if its films were the public set's
    changed(run / "config.json", lambda config: config["training_data"].update(kermany=True))
    card = card_of(run)
    assert sections(card) == SECTIONS
    figures = re.findall(r"!\[.+?\]\((.+?)\)", card.text)
    assert {"report/roc.png", "report/reliability.png", "report/risk_coverage.png", "report/heatmaps.png"} <= set(
        figures
    )
    assert all((run / figure).is_file() for figure in figures)
    assert not re.search(r"\n{3}|\bnan\b|None|\{\{ |\{%|[ \t]$", card.text, re.MULTILINE)
    assert card.text.count("10.17632/rscbjbr9sj") == 2 and '{ dtype: "fp32" }' in card.text


def test_what_is_undefined_is_said_so(run: Path) -> None:
    def undefine(metrics: dict) -> None:
        metrics["metrics"]["npv"] = {"value": None, "ci95": [None, None]}
        metrics["calibration"]["slope"] = None
        metrics["operating_points"][0]["npv"] = None
        metrics["abstention"]["of_the_answered"]["specificity"] = None
        metrics["subgroups"] = {"sex F": {"n": 3, "note": "fewer than 20 films"}}

    changed(run / "report" / "metrics.json", undefine)
    card = card_of(run)
    assert "| NPV | undefined | undefined |" in card.text and "slope undefined" in card.text
    assert "| sex F | 3 | fewer than 20 films |  |  |" in card.text
    assert "npv" not in {result.metric_type for result in card.data.eval_results}
    assert "nan" not in card.text and "None" not in card.text


def test_what_was_not_measured_has_no_section(run: Path) -> None:
    def remove(metrics: dict) -> None:
        metrics.update(subgroups={}, shortcut_floors={})
        del metrics["training"], metrics["explanation"]

    changed(run / "report" / "metrics.json", remove)
    gone = {"Subgroups", "Shortcut baselines", "What the score rests on", "Environmental cost"}
    assert sections(card_of(run)) == [name for name in SECTIONS if name not in gone]


def test_other_hospitals_are_named_where_they_were_measured(run: Path) -> None:
    assert "Not measured on films of another hospital" in card_of(run).text
    elsewhere = json.loads((ROOT / "docs" / "external" / "pneumo-efficientnet" / "metrics.json").read_text())
    external = run / "report" / "external_ieee8023.json"
    external.write_text(json.dumps(elsewhere))
    with pytest.raises(InputError, match="external_ieee8023.json is of another checkpoint"):
        card_of(run)
    own = json.loads((run / "report" / "metrics.json").read_text())["metrics"]["roc_auc"]["value"]
    elsewhere["external"]["metrics"]["roc_auc"]["home"] = own
    external.write_text(json.dumps(elsewhere))
    text = card_of(run).text
    assert f"| {elsewhere['dataset']} | {elsewhere['n']} | {elsewhere['n_patients']} |" in text
    assert elsewhere["external"]["words"][0] in text and "Not measured on films" not in text


def test_films_that_are_not_public_are_neither_shown_nor_called_kermanys(run: Path) -> None:
    text = card_of(run).text
    assert not [name for name in WITH_FILMS if name in text]
    assert "Kermany" not in text and "hildren" not in text and "say here where the films are from" in text
    assert "report/roc.png" in text


@pytest.mark.parametrize(
    ("datasets", "ids", "measured_on"),
    [
        (["owner/films"], ["owner/films"], "owner/films"),
        (["films.zip", "owner/films"], ["owner/films"], "films.zip-films"),
        (["data/chest_xray_sample"], None, "chest_xray_sample"),  # a folder of the project, whatever it looks like
        (["kaggle:owner/films"], None, "films"),
    ],
)
def test_the_metadata_name_only_what_the_hub_knows(
    run: Path, datasets: list[str], ids: list[str] | None, measured_on: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)
    name = " + ".join(Path(dataset).name for dataset in datasets)
    changed(run / "recipe.yaml", lambda recipe: recipe.update(dataset=datasets, model_name_or_path="owner/resnet"))
    changed(run / "report" / "metrics.json", lambda metrics: metrics.update(dataset=name))
    data = card_of(run).data
    assert (data.datasets, data.base_model) == (ids, "owner/resnet")
    assert {(r.dataset_type, r.dataset_name) for r in data.eval_results} == {(measured_on, name)}
    assert (data.license, data.library_name) == ("apache-2.0", "transformers")
    assert data.pipeline_tag == "image-classification"


def test_the_shipped_card_is_what_its_files_say(tmp_path: Path) -> None:
    run = tmp_path / SHIPPED.name
    shutil.copytree(SHIPPED, run)
    write_card(run, TEMPLATE)
    assert (run / "README.md").read_text() == (SHIPPED / "README.md").read_text()
    stated = json.loads((SHIPPED / "report" / "external_ieee8023.json").read_text())
    assert stated == json.loads((ROOT / "docs" / "external" / SHIPPED.name / "metrics.json").read_text())
