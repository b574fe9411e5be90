"""The tab for another hospital's films."""

import gradio as gr

from pneumo_hf.inference.scorer import Scorer

ASKED = (
    "Films of your hospital: a zip of folders that are called by their labels (`NORMAL/...`, `PNEUMONIA/...`), or a "
    "CSV of `label` and `probability` that this model's `predict` wrote. Scores and thresholds are fitted to them, "
    "and measured on patients that each fit did not see. Take films that the model was not trained on: the page "
    "cannot always notice it."
)


def build_local_tab(predictor: Scorer) -> None:
    """Lay the tab out inside the current `gr.Blocks`; its API endpoint is `/recalibrate`."""
    if len(predictor.members) > 1 or predictor.flip:
        gr.Markdown("One checkpoint can be recalibrated, without `--flip`: serve it by itself.")
        return

    def recalibrate(
        path: str | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - gradio looks for it here
    ) -> tuple[str, list, str | None]:
        """Recalibrate on labelled films (a zip) or scores (a CSV): a table, figures, and the checkpoint as a zip."""
        from pneumo_hf.app.local_films import recalibrate_upload  # with what fits, which takes seconds to import

        return recalibrate_upload(predictor, path, progress)

    gr.Markdown(ASKED)
    file = gr.File(label="A zip of labelled films, or a CSV of scores", elem_id="local-file", height=140)
    button = gr.Button("Measure and recalibrate", variant="primary", elem_id="local-measure")
    outcome = gr.HTML(elem_id="local-outcome")
    figures = gr.Gallery(label="Before and after", columns=2, height="auto", object_fit="contain")
    download = gr.File(label="The recalibrated checkpoint", interactive=False, elem_id="local-checkpoint")
    limits = {"concurrency_limit": 1, "api_visibility": "undocumented"}  # as the worklist's
    button.click(recalibrate, [file], [outcome, figures, download], api_name="recalibrate", **limits)
