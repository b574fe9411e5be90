"""The tab for another hospital's films."""

from typing import Any

import gradio as gr

from pneumo_hf.app.pages import render
from pneumo_hf.inference.scorer import Scorer


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

    def on_the_page(path: str, progress: gr.Progress = gr.Progress()) -> tuple[str, str | None]:  # noqa: B008
        from pneumo_hf.app.local_films import figures_html

        try:
            outcome, figures, archive = recalibrate(path, progress)
        except gr.Error as error:  # which stays, unlike a message that goes by itself
            return render("not_measured.html.jinja", reason=error.message), None
        return outcome + figures_html(figures), archive

    gr.HTML(render("local.html.jinja"), elem_id="local-asked", apply_default_css=False)
    file = gr.File(label="A zip of labelled films, or a CSV of scores", elem_id="local-file", height=140)
    button = gr.Button("Measure and recalibrate", variant="primary", elem_id="local-measure", interactive=False)
    outcome = gr.HTML(elem_id="local-outcome", apply_default_css=False)
    download = gr.File(label="The recalibrated checkpoint", interactive=False, elem_id="local-checkpoint")
    one = {"concurrency_limit": 1, "concurrency_id": "recalibrate"}
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
    file.change(lambda path: (gr.Button(interactive=bool(path)), "", None), file, [button, outcome, download], **quiet)
    busy = button.click(lambda: (gr.Button(interactive=False), "", None), None, [button, outcome, download], **quiet)
    done = busy.then(on_the_page, file, [outcome, download], api_visibility="private", show_progress_on=outcome, **one)
    for ended in (done.success, done.failure):
        ended(lambda path: gr.Button(interactive=bool(path)), file, button, **quiet)
    figures = gr.Gallery(visible=False)
    asked, answer = gr.File(label="path", visible=False), gr.HTML(visible=False)
    gr.Button(visible=False).click(
        recalibrate,
        asked,
        [answer, figures, gr.File(visible=False)],
        api_name="recalibrate",
        api_visibility="undocumented",  # as the worklist's
        **one,
    )
