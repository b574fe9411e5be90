"""The web demo: tabs, style and the disclaimer around them."""

import base64
import logging
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import gradio.queueing
import gradio.routes
import numpy as np
from fastapi.middleware import Middleware
from gradio.route_utils import API_PREFIX

from pneumo_hf import DISCLAIMER
from pneumo_hf.app.answers import Answers, build_api
from pneumo_hf.app.files import KEPT, SWEEP, sweep_regularly, write_examples
from pneumo_hf.app.local_tab import build_local_tab
from pneumo_hf.app.model_tab import build_model_tab, read_report
from pneumo_hf.app.model_thread import ON_ZERO_GPU
from pneumo_hf.app.pages import head, render
from pneumo_hf.app.points import offered
from pneumo_hf.app.reader import build_reader
from pneumo_hf.app.rest import STATIC, make_routes, refusal
from pneumo_hf.app.verdict import trained_on
from pneumo_hf.app.worklist import build_worklist
from pneumo_hf.errors import InputError
from pneumo_hf.inference.scorer import Scorer
from pneumo_hf.labels import NEGATIVE

logger = logging.getLogger(__name__)

THEME = gr.themes.Base(
    primary_hue="teal", neutral_hue="slate", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
).set(  # what else is too pale to read
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_300",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_hover_dark="*primary_800",
    slider_color="*primary_700",
    slider_color_dark="*primary_400",
    checkbox_border_color="*neutral_500",
    checkbox_border_color_dark="*neutral_400",
    checkbox_background_color_selected="*primary_700",
    checkbox_background_color_selected_dark="*primary_700",
    checkbox_border_color_selected="*primary_700",
    checkbox_border_color_selected_dark="*primary_700",
)
READERS = {"concurrency_id": "reader", "concurrency_limit": 4}  # films that the first tab reads at once
LONGEST_QUEUE = 256  # requests that wait; more are told to come again
LARGEST_FILE = "50mb"
DESCRIPTIONS = ("/v1/docs", "/v1/openapi.json")  # which a browser asks for without a header


def build_app(predictor: Scorer, sample: Path, answers: Answers) -> gr.Blocks:
    """Build the interface for a loaded checkpoint; uploads are deleted after an hour."""
    report = read_report(predictor)
    with gr.Blocks(title="pneumo_hf", delete_cache=(SWEEP, KEPT)) as blocks:
        question = " or ".join(label.lower() for label in (*predictor.task.labels[1:], NEGATIVE)).capitalize()
        gr.HTML(
            render(
                "header.html.jinja",
                question=question,
                disclaimer=DISCLAIMER,
                finding=predictor.task.finding,
                trained_on=trained_on(predictor),
            ),
            elem_id="header",
            apply_default_css=False,
        )
        with gr.Tab("Read a film"):
            build_reader(predictor, write_examples(sample), report, READERS)
        with gr.Tab("Worklist"):
            build_worklist(predictor)
        with gr.Tab("Recalibrate"):
            build_local_tab(predictor)
        with gr.Tab("The model"):
            build_model_tab(predictor, report, [point.threshold for point in offered(predictor.settings)])
        build_api(predictor, answers)
    return blocks


def serve(
    predictor: Scorer,
    sample: Path,
    host: str,
    port: int,
    auth: tuple[str, str] | None = None,
    mcp: bool = False,
    token: str | None = None,
) -> None:
    """Answer on `http://host:port` until stopped; `/health` says that the model is loaded.

    Args:
        auth: user and password that the page and its endpoints ask for.
        mcp: offer the endpoints as MCP tools.
        token: what programs send in place of user and password, as `Authorization: Bearer TOKEN`.
    """
    if not ON_ZERO_GPU:
        predictor([np.zeros((64, 64), np.uint8)])  # warm, so that the first visitor does not wait
    log_without_tracebacks()
    answers = Answers(predictor)
    app, itself = build_app(predictor, sample, answers), (secrets.token_hex(), secrets.token_urlsafe())
    guards = [Middleware(Guard, auth, token)] if auth or token else []
    answers.ready = not (auth and mcp)  # else its tools would be asked before they have a password
    try:
        app.queue(max_size=LONGEST_QUEUE).launch(
            server_name=host,
            server_port=port,
            theme=THEME,
            head=head(),
            max_file_size=LARGEST_FILE,
            show_error=True,
            auth=[itself, auth] if auth else None,
            mcp_server=mcp,
            app_kwargs={"routes": make_routes(predictor, answers), "middleware": guards},
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise InputError(f"cannot listen on {host}:{port}, perhaps it is taken: choose another with --port") from error
    if auth and mcp:  # gradio's tools call its endpoints over HTTP, without a password
        from gradio.mcp import Client

        app.mcp_server_obj._client_instance = Client(
            app.local_url,
            auth=itself,
            headers={"x-gradio-user": "mcp"},
            download_files=False,
            verbose=False,
            analytics_enabled=False,
        )
        answers.ready = True
    sweep_regularly()
    app.block_thread()


class Guard:
    """Asks programs who they are, before REST and the MCP server, which gradio leaves open.

    They send user and password, as `curl --user` does or as a token, or the token itself.
    """

    def __init__(self, app: Callable, auth: tuple[str, str] | None, token: str | None):
        self.app, self.expected = app, []
        if auth:
            together = ":".join(auth)
            self.expected += [f"Bearer {together}", f"Basic {base64.b64encode(together.encode()).decode()}"]
        if token:
            self.expected.append(f"Bearer {token}")

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        path = scope.get("path", "")
        # wherever the app is mounted: a root path stands before these
        described = path.endswith(DESCRIPTIONS) or f"/v1{STATIC}/" in path
        asked = ("/v1/" in path and not described) or path.endswith("/metrics")
        if asked or f"{API_PREFIX}/mcp" in path:
            scheme, _, given = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
            sent = scheme.title() + b" " + given.strip()  # a scheme has no case (RFC 9110, 11.1)
            if not any(secrets.compare_digest(sent, known.encode()) for known in self.expected):
                words = (
                    "this address asks for the header Authorization: Bearer TOKEN (or USER:PASSWORD for TOKEN), or "
                    "for user and password as curl --user sends them"
                )
                asked_for = {"WWW-Authenticate": "Bearer"}  # not Basic: browsers would open a dialog for it
                return await refusal(secrets.token_hex(8), 401, words, asked_for)(scope, receive, send)
        await self.app(scope, receive, send)


def log_without_tracebacks() -> None:
    """Name a failed call in the log by its error alone: gradio prints tracebacks, whose paths can name people."""

    def say() -> None:
        logger.warning("a call failed (%s)", type(sys.exception()).__name__)

    for module in (gradio.queueing, gradio.routes):
        module.traceback = SimpleNamespace(print_exc=say)
    make_record = logging.getLogRecordFactory()

    def without_traceback(*arguments, **options) -> logging.LogRecord:  # of uvicorn and of mcp
        record = make_record(*arguments, **options)
        if record.exc_info:
            kind = record.exc_info[0]
            record.msg, record.args, record.exc_info = f"a call failed ({kind and kind.__name__})", None, None
        return record

    logging.setLogRecordFactory(without_traceback)
