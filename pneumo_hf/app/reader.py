"""The tab that reads one film: in goes a file, out come the decision, the probability and the film to look at."""

from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from pneumo_hf.app.case_report import FACTS, file_facts
from pneumo_hf.app.films import explain_film_file, heat_of_file, read_film_file, report_film_file
from pneumo_hf.app.model_tab import Report
from pneumo_hf.app.pages import as_address, render
from pneumo_hf.app.points import own_point, point_choices
from pneumo_hf.app.verdict import clinical_html, is_scored, measured_html, verdict_html
from pneumo_hf.app.viewer import viewer_html
from pneumo_hf.data.schema import CLINICAL_COLUMNS
from pneumo_hf.inference.scorer import Scorer

EXAMPLES = "Or look at a film of the official test set (Kermany et al. 2018, CC BY 4.0)"
READING = '<div class="decision waiting" role="status"><strong>Reading…</strong></div>'
EXAMPLE_SIDE = 320  # pixels
FAILED = (
    '<div class="decision unread" role="status"><strong>Not read</strong>'
    "<p>It took too long, or too many films are waiting. Drop it in again.</p></div>"
)
REPORT = "Download a one-page report"
HEATMAP = "Heatmap: where the score rests"
READ_FIRST = "Hide the answer: I read the film first"
FOLDED = (
    '<p class="hint" role="status">The film is read.</p>'
    '<details class="answer"><summary>the answer</summary>{}</details>'
)
# Once opened, the answer stays open while threshold, age, sex or view change.
STAY_OPEN = "(...given) => [...given.slice(0, -1), given.at(-1) && !document.querySelector('#verdict details[open]')]"
BY_HAND = "(percent) => [null, Math.min(100, Math.max(0, percent)) / 100]"  # of an emptied box 0, as it shows then
TO_THE_VERDICT = "() => document.querySelector('#verdict').scrollIntoView({ block: 'nearest' })"


class Reader:
    """What the tab's parts do when they are used."""

    def __init__(self, predictor: Scorer, report: Report | None):
        self.predictor, self.report, self.thresholds = predictor, report, predictor.settings.thresholds

    def read(self, path: str | None) -> dict | None:
        result, film = read_film_file(self.predictor, path)
        if path is None or result is None:
            return None
        facts = file_facts(Path(path).read_bytes(), film) if film else {}
        if film:
            result |= {"size": film.size}
        age, sex, view = (facts.get(FACTS[name]) for name in CLINICAL_COLUMNS)
        parts = (viewer_html(film), render("facts.html.jinja", facts=facts), age and float(age), sex, view)
        return {"path": path, "result": result, "parts": parts}

    def show(self, found: dict | None, path: str | None) -> tuple:
        """Lay out film and facts, unless another film was chosen meanwhile."""
        return found["parts"] if found and found["path"] == path else ("", "", None, None, None)

    def decide(
        self,
        found: dict | None,
        path: str | None,
        threshold: float,
        age: float | None,
        sex: str | None,
        view: str | None,
        folded: bool = False,
    ) -> tuple[str, str]:
        """Format the verdict, folded up until it is opened if so wished, and what was measured at the threshold."""
        measured = measured_html(self.predictor, self.report, threshold)
        if not found or found["path"] != path:
            return READING if path else "", measured
        result = found["result"]
        verdict = verdict_html(self.predictor, result, threshold, self.report, age)
        verdict += clinical_html(self.predictor, result, {"age": age, "sex": sex, "view": view})
        return FOLDED.format(verdict) if folded and is_scored(result) else verdict, measured

    def make_heat(self, path: str | None, wanted: bool) -> tuple:
        return (path, wanted), heat_of_file(self.predictor, path) if path and wanted else ""

    def make_report(self, path: str | None, threshold: float) -> tuple:
        return (path, threshold), self.case_report(path, threshold)

    def explain(self, path: str | None, opacity: float) -> Image.Image | None:
        """Lay the Grad-CAM heatmap of P(PNEUMONIA) over a film: a picture of the film's size.

        Args:
            path: PNG, JPEG, TIFF, WebP or DICOM.
            opacity: of the heatmap, 0 (the film as it is) to 1.
        """
        return explain_film_file(self.predictor, path, opacity)

    def case_report(self, path: str | None, threshold: float) -> str:
        """Write one page about one film, to print: decision, film, facts of the file and of the model.

        A heatmap is on it where the model has an answer.

        Args:
            path: PNG, JPEG, TIFF, WebP or DICOM.
            threshold: a probability of pneumonia, 0 to 1, at or above which the film is flagged.
        """
        return report_film_file(self.predictor, path, threshold, self.report)


def build_reader(predictor: Scorer, examples: list[Path], report: Report | None, limits: dict) -> None:
    """Lay the tab out inside the current `gr.Blocks`; its API endpoints are `/explain` and `/case_report`.

    Args:
        report: the checkpoint's, where there is one.
        limits: of events that use the network.
    """
    reader = Reader(predictor, report)
    with gr.Row(elem_id="reader", equal_height=False):
        with gr.Column(scale=3, min_width=320):
            file = gr.File(label="PNG, JPEG, TIFF, WebP or DICOM; deleted after an hour", elem_id="film-file")
            with gr.Row(elem_id="how-to-read"):
                folded = gr.Checkbox(False, label=READ_FIRST, elem_id="read-first", container=False)
                heat_on = gr.Checkbox(False, label=HEATMAP, elem_id="heat-on", elem_classes="heat-on", container=False)
            heat = gr.HTML("", elem_id="heat", apply_default_css=False)  # its scale is seen with the film
            shown = gr.HTML("", elem_id="film", apply_default_css=False)
            build_examples(examples, file)
        with gr.Column(scale=2, min_width=320):
            verdict = gr.HTML("", elem_id="verdict", apply_default_css=False)
            make = gr.Button(REPORT, elem_id="make-report", elem_classes="of-film", size="md")
            page = gr.DownloadButton(elem_id="case-report", elem_classes="made")
            point, cut = threshold_boxes(reader)
            measured = gr.HTML(
                measured_html(predictor, report, predictor.settings.threshold),
                elem_id="measured",
                apply_default_css=False,
            )
            clinical = clinical_boxes(predictor)
            facts = gr.HTML("", elem_id="facts", apply_default_css=False)
    connect(
        reader, [file, heat_on, cut, *clinical, folded], [shown, heat, page, facts, verdict, measured], make, limits
    )
    build_api(reader, limits)


def connect(reader: Reader, given: list, shown: list, make: gr.Button, limits: dict) -> None:
    """Connect what is given, file, heatmap or not, threshold, age, sex, view, folded or not, with what is shown.

    What takes time lands in a state first, and is shown only if what it was made of is still what is given: nothing
    stands beside another film, or at another threshold.
    """
    file, heat_on, cut, *clinical, folded = given
    film, heat, page, facts, verdict, measured = shown
    found, made_heat, made_report = gr.State(), gr.State(), gr.State()
    private: dict[str, Any] = {"api_visibility": "private"}
    quiet, last = private | {"show_progress": "hidden"}, private | {"trigger_mode": "always_last"}
    emptied = file.change(
        lambda path: (None, False, "", None, "", "", READING if path else ""),
        file,
        [found, heat_on, heat, page, film, facts, verdict],
        queue=False,
        **quiet,
    )
    scored = emptied.then(reader.read, file, found, **last, **limits)
    scored.failure(lambda: FAILED, None, verdict, **quiet)
    decided = {"fn": reader.decide, "inputs": [found, file, cut, *clinical, folded], "outputs": [verdict, measured]}
    laid_out = scored.then(reader.show, [found, file], [film, facts, *clinical], **last)
    laid_out.then(**decided, **last).then(None, None, None, js=TO_THE_VERDICT)
    for changed in (cut, *clinical):
        changed.change(**decided, js=STAY_OPEN, trigger_mode="always_last", **quiet)
    folded.change(**decided, trigger_mode="always_last", **quiet)
    heated = heat_on.input(reader.make_heat, [file, heat_on], made_heat, show_progress_on=heat, **last, **limits)
    heated.then(still, [made_heat, file, heat_on], heat, **last)
    reported = make.click(reader.make_report, [file, cut], made_report, show_progress_on=make, **private, **limits)
    reported.then(still, [made_report, file, cut], page, **last).then(None, page, None, js=download("case-report"))


def still(made: tuple | None, *given: object) -> Any:
    """Return what was made, if it was made of what is given now."""
    return made[1] if made and made[0] == given else None


def download(elem_id: str) -> str:
    """Write the script that clicks a hidden button of a download once its file is made."""
    return f"(made) => {{ if (made) document.querySelector('#{elem_id}').click(); }}"


def build_examples(examples: list[Path], file: gr.File) -> None:
    """Lay out a button with its picture for each example; one click reads it."""
    if not examples:
        return
    gr.HTML(f'<p class="hint">{EXAMPLES}</p>', elem_id="examples-title", apply_default_css=False)
    with gr.Row(elem_id="examples"):
        for path in examples:
            with Image.open(path) as film:  # inside its address: gradio would delete a file of it after an hour
                icon: Any = {"path": path.name, "url": as_address(film, EXAMPLE_SIDE)}
            button = gr.Button(path.stem.capitalize(), icon=icon, elem_classes="example", min_width=120)
            button.click(lambda chosen=str(path): chosen, None, file, api_visibility="private", queue=False)


def threshold_boxes(reader: Reader) -> tuple[gr.Radio, gr.Number]:
    """Lay out the operating points by plain names, with their figures, and a slider for any other threshold."""

    def both(threshold: float) -> tuple[float, float]:
        return round(100 * threshold, 1), threshold

    settings = reader.predictor.settings
    unsure = settings.uncertain_scores
    choices, own = point_choices(settings, reader.report), own_point(settings).name
    points = gr.Radio(choices, value=own, label="Operating point: when to flag", elem_id="operating-point")
    with gr.Accordion("Another threshold", open=False, elem_id="by-hand"):
        info = (
            "From {:.1%} to {:.1%} it changes nothing: films there have no answer.".format(*unsure) if unsure else None
        )
        hand = gr.Slider(
            0, 100, both(settings.threshold)[0], step=0.1, label="Threshold in %", info=info, elem_id="by-percent"
        )
    cut = gr.Number(settings.threshold, label="Decision threshold", visible=False)  # exact, of 0 to 1
    points.input(lambda name: both(reader.thresholds[name]), points, [hand, cut], api_visibility="private")
    hand.input(None, hand, [points, cut], js=BY_HAND)
    return points, cut


def build_api(reader: Reader, limits: dict) -> None:
    """Add the endpoints `/explain` and `/case_report`, which have no part on the page."""
    with gr.Row(visible=False):
        film, opacity, picture = gr.File(), gr.Slider(0, 1, 0.5, label="opacity"), gr.Image(type="pil")
        gr.Button().click(reader.explain, [film, opacity], picture, api_name="explain", **limits)
        cut, page = gr.Number(reader.predictor.settings.threshold, label="Decision threshold"), gr.File()
        gr.Button().click(reader.case_report, [film, cut], page, api_name="case_report", **limits)


def clinical_boxes(predictor: Scorer) -> tuple[gr.Number, gr.Dropdown, gr.Dropdown]:
    """Lay out a box for each of age, sex and view, those that the model weighs to be seen."""
    weighed = predictor.clinical.columns if predictor.clinical else {}
    with gr.Row(visible=bool(weighed)):
        age = gr.Number(
            label="Age in years, if known", value=None, minimum=0, maximum=120, visible="age" in weighed, elem_id="age"
        )
        sex, view = (
            gr.Dropdown(
                ["", *weighed.get(name, ())],
                value="",
                label=f"{name.capitalize()}, if known",
                visible=name in weighed,
                allow_custom_value=True,  # of a header
                elem_id=f"film-{name}",
            )
            for name in ("sex", "view")
        )
    return age, sex, view
