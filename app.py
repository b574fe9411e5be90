"""The web demo: python app.py, then http://127.0.0.1:7860; --model serves another checkpoint than the shipped one."""

import argparse
import logging
import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before gradio is imported
if "OMP_WAIT_POLICY" not in os.environ:  # before torch: how long its threads spin for one that has lost its core
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")

if os.environ.get("SPACES_ZERO_GPU"):
    import spaces  # noqa: F401 - before torch, whose calls for a GPU it answers

from pneumo_hf.app.interface import serve
from pneumo_hf.config import InputError, one_line_errors
from pneumo_hf.evaluation.ensemble import load_predictor

ROOT = Path(__file__).parent


def main(arguments: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for client in ("httpx", "httpx2"):  # gradio's and huggingface_hub's
        logging.getLogger(client).setLevel(logging.WARNING)
    checkpoints = arguments.model or [os.environ.get("PNEUMO_HF_MODEL") or default_model()]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # as by Ctrl-C: what visitors sent is deleted on the way out
    auth = tuple(arguments.auth.split(":", 1)) if arguments.auth else None
    if auth and len(auth) != 2:
        raise InputError("--auth is USER:PASSWORD")
    if arguments.mcp and find_spec("mcp") is None:
        raise InputError("--mcp needs gradio's extra: pip install 'gradio[mcp]'")
    if not 0 < arguments.port < 2**16:
        raise InputError(f"--port is {arguments.port}, but goes from 1 to 65535")
    predictor = load_predictor(checkpoints, arguments.device, arguments.flip, arguments.backend)
    serve(predictor, ROOT / "data" / "chest_xray_sample", arguments.host, arguments.port, auth, arguments.mcp)


def default_model() -> str:
    """The model that a Space was made for; elsewhere the shipped one."""
    told = ROOT / "model_id.txt"
    return told.read_text().strip() if told.exists() else str(ROOT / "models" / "pneumo-efficientnet")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve a checkpoint as a web demo.")
    parser.add_argument(
        "--model",
        action="append",
        help="a run folder of train_hf.py, or a Hub id (default: $PNEUMO_HF_MODEL, else the shipped "
        "models/pneumo-efficientnet); given several times, the ensemble of them",
    )
    parser.add_argument("--flip", action="store_true", help="average each film's score with its mirror image's")
    host, port = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"), int(os.environ.get("GRADIO_SERVER_PORT", "7860"))
    parser.add_argument("--host", default=host, help=f"0.0.0.0 to be reached from other machines (default: {host})")
    parser.add_argument("--port", type=int, default=port, help=f"(default: {port})")
    told = os.environ.get
    parser.add_argument(
        "--device",
        default=told("PNEUMO_HF_DEVICE"),
        help="of torch: cpu, cuda, ... (default: $PNEUMO_HF_DEVICE, else the GPU where there is one)",
    )
    parser.add_argument(
        "--backend",
        choices=("torch", "onnx"),
        default=told("PNEUMO_HF_BACKEND", "torch"),
        help="onnx: what `export` wrote (default: $PNEUMO_HF_BACKEND, else torch)",
    )
    parser.add_argument(
        "--auth", default=told("PNEUMO_HF_AUTH"), metavar="USER:PASSWORD", help="ask for them (or $PNEUMO_HF_AUTH)"
    )
    parser.add_argument(
        "--mcp", action="store_true", help="offer the endpoints as MCP tools: pip install 'gradio[mcp]'"
    )
    with one_line_errors():
        given = parser.parse_args()
        if given.backend not in ("torch", "onnx"):  # argparse does not look at defaults
            raise InputError(f"PNEUMO_HF_BACKEND is {given.backend}: torch or onnx")
        main(given)
