"""The web demo: tabs, style and the disclaimer around them."""

import tempfile
from pathlib import Path

import gradio as gr
import numpy as np
from fastapi.routing import APIRoute

from pneumo_hf import DISCLAIMER
from pneumo_hf.app.model_tab import build_model_tab
from pneumo_hf.app.reader import build_reader, write_examples
from pneumo_hf.app.worklist import build_worklist
from pneumo_hf.config import InputError
from pneumo_hf.inference.predictor import Predictor

CSS = """
.notice { background: #fef3c7; color: #451a03; border-left: 4px solid #b45309; padding: .6rem 1rem }
.decision { font-size: 1.35rem; font-weight: 600; padding: .7rem 1rem; border-radius: .5rem; margin-bottom: 1rem }
.decision.flag { background: #fee2e2; color: #7f1d1d } .decision.clear { background: #d1fae5; color: #064e3b }
.decision.unread { background: #e5e7eb; color: #111827; font-size: 1.1rem }
.scale { position: relative; height: 1.6rem; background: #e5e7eb; border-radius: .4rem; margin: .5rem 0 1rem }
.scale .bar { height: 100%; border-radius: .4rem } .bar.flag { background: #b91c1c } .bar.clear { background: #047857 }
.scale .bar.unread { background: #6b7280 }
.scale .threshold { position: absolute; top: -.4rem; bottom: -.4rem; width: 3px; background: #111827 }
#film img { width: 100%; height: 100%; object-fit: contain }
.hint { color: #4b5563 } td, th { padding: .1rem .8rem .1rem 0; text-align: left }
"""
THEME = gr.themes.Soft(primary_hue="teal", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])


def build_app(predictor: Predictor, sample: Path) -> gr.Blocks:
    """The interface for a loaded checkpoint; uploads are deleted after an hour."""
    examples = write_examples(sample, Path(tempfile.mkdtemp(prefix="pneumo_hf_examples_")))
    with gr.Blocks(title="pneumo_hf", delete_cache=(3600, 3600)) as blocks:
        gr.Markdown(f"# Pneumonia or normal?\nA second look at a chest X-ray, by `{Path(predictor.name).name}`.")
        gr.HTML(f'<div class="notice" id="disclaimer">{DISCLAIMER}</div>')
        with gr.Tab("Read a film"):
            build_reader(predictor, examples)
        with gr.Tab("Worklist"):
            build_worklist(predictor)
        with gr.Tab("The model"):
            build_model_tab(predictor)
    return blocks


def serve(predictor: Predictor, sample: Path, host: str, port: int) -> None:
    """Answer on `http://host:port` until stopped; `/health` tells that the model is loaded."""
    predictor([np.zeros((64, 64), np.uint8)])  # warm, so that the first visitor does not wait
    app = build_app(predictor, sample)
    try:
        server, _, _ = app.queue(max_size=64).launch(
            server_name=host, server_port=port, theme=THEME, css=CSS, max_file_size="50mb", show_error=True,
            prevent_thread_lock=True,
        )  # fmt: skip
    except OSError as error:
        raise InputError(f"cannot listen on {host}:{port}, perhaps it is taken: choose another with --port") from error
    health = APIRoute("/health", lambda: {"status": "ok", "model": Path(predictor.name).name})
    server.router.routes.insert(0, health)  # before the page's own, which answers every path
    app.block_thread()
