"""The tab that reads one film: in goes a file, out come the film, the probability on its scale, and the decision."""

import html
import logging
import time
from pathlib import Path

import gradio as gr
import torch
from PIL import Image

from pneumo_hf.config import InputError
from pneumo_hf.data.files import read_film
from pneumo_hf.data.listing import list_films
from pneumo_hf.imaging.film import FILM_SUFFIXES, UnreadableFilmError, load_xray
from pneumo_hf.imaging.processor import resize_film
from pneumo_hf.inference.explain import GradCam, overlay
from pneumo_hf.inference.predictor import Predictor

logger = logging.getLogger(__name__)

EXAMPLES_PER_LABEL = 3
EMPTY = '<p class="hint">Drop a film on the left, or choose an example below.</p>'


def build_reader(predictor: Predictor, examples: list[Path]) -> None:
    """Lay the tab out inside the current `gr.Blocks`; its API endpoints are `/predict` and `/explain`."""

    thresholds = {point["name"]: point["threshold"] for point in predictor.operating_points}
    thresholds.setdefault(predictor.method, predictor.threshold)

    def read(path: str | None, operating_point: str) -> tuple[Image.Image | None, str]:
        return read_film_file(predictor, path, thresholds[operating_point])

    def explain(path: str | None, opacity: float) -> Image.Image | None:
        return explain_film_file(predictor, path, opacity)

    with gr.Row():
        with gr.Column():
            file = gr.File(
                label="A chest film: PNG, JPEG, TIFF, WebP or DICOM",
                file_types=sorted(FILM_SUFFIXES),
                elem_id="film-file",
                height=140,
            )
            shown = gr.Image(
                label="What is read", type="pil", interactive=False, height=420, elem_id="film", buttons=["fullscreen"]
            )
            opacity = gr.Slider(
                0, 1, 0, step=0.05, label="Heatmap (Grad-CAM): where the score rests", elem_id="opacity"
            )
        with gr.Column():
            verdict = gr.HTML(EMPTY, elem_id="verdict")
            point = gr.Dropdown(
                list(thresholds), value=predictor.method, label="Operating point", elem_id="operating-point",
                info="what the decision threshold was chosen for, on validation films",
            )  # fmt: skip
            gr.HTML(about(predictor))
    if examples:
        gr.Examples(
            [[str(path)] for path in examples],
            inputs=[file],
            label="Films of the official test set (Kermany et al. 2018, CC BY 4.0); the name tells the label",
            elem_id="examples",
        )
    one_at_a_time = {"concurrency_id": "model", "concurrency_limit": 1}  # Grad-CAM hooks into the network
    file.change(read, [file, point], [shown, verdict], api_name="predict", **one_at_a_time)
    file.change(lambda: 0, None, opacity, api_visibility="private")
    point.change(read, [file, point], [shown, verdict], api_visibility="private", **one_at_a_time)
    opacity.release(explain, [file, opacity], shown, api_name="explain", **one_at_a_time)


def read_film_file(predictor: Predictor, path: str | None, threshold: float) -> tuple[Image.Image | None, str]:
    """The film as it is read and its verdict as HTML; what cannot be read gets the reason instead."""
    if path is None:
        return None, EMPTY
    start = time.perf_counter()
    try:
        film = load_xray(path)
    except (UnreadableFilmError, OSError) as error:
        return None, f'<div class="decision unread">Not read: {html.escape(str(error))}</div>'
    result = predictor([film])[0]
    logger.info("read a film of %d x %d in %.0f ms", *film.size, 1000 * (time.perf_counter() - start))
    return film, verdict_html(predictor, result, threshold)


def explain_film_file(predictor: Predictor, path: str | None, opacity: float) -> Image.Image | None:
    """The film under its heatmap, or as it is: at opacity 0, and where there is nothing to explain."""
    if path is None:
        return None
    try:
        film = load_xray(path)
        if opacity == 0:
            return film
        pixels = torch.from_numpy(resize_film(film, predictor.members[0].image_processor)[None])
        return overlay(film, GradCam(predictor)(pixels)[0], opacity)
    except (UnreadableFilmError, OSError, InputError) as error:
        raise gr.Error(str(error)) from error


def verdict_html(predictor: Predictor, result: dict, threshold: float) -> str:
    """The decision in words, and the probability as a bar with the threshold drawn on it."""
    if result["flag"] == "not_chest_xray":
        return f'<div class="decision unread">No chest X-ray: {html.escape(result["error"])}</div>'
    probability, validated = result["probability"], predictor.chosen_on.startswith("validation")
    how = f"calibrated on {predictor.chosen_on}" if validated else "as the checkpoint gives it, not calibrated"
    kind, words = "clear", "No flag: below the threshold"
    if result["flag"] == "abstain":
        kind, words = "unread", f"No answer: {html.escape(result['error'] or 'neither label is sure enough')}"
    elif probability >= threshold:
        kind, words = "flag", "Flag for review: at or above the threshold"
    return f"""
<div class="decision {kind}">{words}</div>
<div class="scale" role="img" aria-label="probability {probability:.1%}, threshold {threshold:.1%}">
  <div class="bar {kind}" style="width: {100 * probability:.2f}%"></div>
  <div class="threshold" style="left: {100 * threshold:.2f}%"></div>
</div>
<p><b>Probability of pneumonia: {probability:.1%}</b>, {how}.
Decision threshold: {threshold:.1%}.</p>
"""


def about(predictor: Predictor) -> str:
    """What the model is, from its own configuration."""
    rows = "".join(
        f"<tr><td>{html.escape(point['name'])}</td><td>{point['threshold']:.3f}</td>"
        f"<td>{point['sensitivity']:.3f}</td><td>{point['specificity']:.3f}</td></tr>"
        for point in predictor.operating_points
    )
    if not rows:
        return ""
    return (
        "<details><summary>Operating points of this model, measured on its validation films</summary>"
        "<table><tr><th>name</th><th>threshold</th><th>sensitivity</th><th>specificity</th></tr>"
        f"{rows}</table></details>"
    )


def write_examples(sample: Path, folder: Path) -> list[Path]:
    """A few test films of the embedded sample as files for the examples row; none where the sample is absent."""
    try:
        films = list_films(sample / "test-00000-of-00001.parquet")
    except InputError:
        return []
    paths = []
    for label, name in ((1, "pneumonia"), (0, "normal")):
        chosen = [film for film in films if film["label"] == label][::60][:EXAMPLES_PER_LABEL]
        for number, film in enumerate(chosen, start=1):
            paths.append(folder / f"{name}_{number}.jpeg")
            paths[-1].write_bytes(read_film(film["image"]))
    return paths
