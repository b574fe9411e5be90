"""The web demo: python app.py, then http://127.0.0.1:7860; --model serves another checkpoint than the shipped one."""

import argparse
import os
import signal
import sys
from contextlib import suppress
from importlib.util import find_spec
from multiprocessing import active_children
from pathlib import Path

from pneumo_hf import runtime
from pneumo_hf.errors import InputError, one_line_errors

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before gradio is imported
runtime.before_imports()
if os.environ.get("SPACES_ZERO_GPU"):
    from pneumo_hf.app.files import uploads_folder

    os.environ["GRADIO_TEMP_DIR"] = str(uploads_folder())  # read by gradio, which spaces imports
    import spaces  # noqa: F401 - before torch, whose calls for a GPU it answers

ROOT = Path(__file__).parent


def main(arguments: argparse.Namespace) -> None:
    """Load the model and serve it until stopped."""
    from pneumo_hf.app.decoding import end_processes, start_processes
    from pneumo_hf.app.files import import_gradio, remove_files

    import_gradio()
    if not os.environ.get("SPACES_ZERO_GPU"):
        runtime.import_for_scoring()
    from pneumo_hf.app.interface import serve
    from pneumo_hf.evaluation.ensembles import load_predictor

    runtime.start()
    checkpoints = arguments.model or [os.environ.get("PNEUMO_HF_MODEL") or default_model()]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # as by Ctrl-C: what visitors sent is deleted on the way out
    auth = tuple(arguments.auth.split(":", 1)) if arguments.auth else None
    if auth and len(auth) != 2:
        raise InputError("--auth is USER:PASSWORD")
    if arguments.token and not auth:
        raise InputError("--token alone would leave the page and its endpoints open: give --auth USER:PASSWORD, too")
    if arguments.mcp and find_spec("mcp") is None:
        raise InputError("--mcp needs gradio's extra: pip install 'gradio[mcp]'")
    if not 0 < arguments.port < 2**16:
        raise InputError(f"--port is {arguments.port}, but goes from 1 to 65535")
    start_processes()  # which get ready while the model is loaded
    predictor = load_predictor(checkpoints, arguments.device, arguments.flip, arguments.backend)
    with suppress(SystemExit):
        sample, given = ROOT / "data" / "chest_xray_sample", arguments
        serve(predictor, sample, given.host, given.port, auth, given.mcp, given.token)
    end_processes()
    for process in active_children():  # those that spaces keeps
        process.kill()
    remove_files()
    sys.stdout.flush()
    os._exit(0)  # the interpreter would wait for every request that is still being answered


def default_model() -> str:
    """Find the model that a Space was made for; elsewhere the shipped one."""
    named = ROOT / "model_id.txt"
    return named.read_text().strip() if named.exists() else str(ROOT / "models" / "pneumo-efficientnet")


def make_parser() -> argparse.ArgumentParser:
    """Declare the options; environment variables give their defaults, as a Space sets them."""
    environment = os.environ.get
    host, port = environment("GRADIO_SERVER_NAME", "127.0.0.1"), int(environment("GRADIO_SERVER_PORT", "7860"))
    parser = argparse.ArgumentParser(description="Serve a checkpoint as a web demo.")
    parser.add_argument(
        "--model",
        action="append",
        help="a run folder of train_hf.py, or a Hub id (default: $PNEUMO_HF_MODEL, else the shipped "
        "models/pneumo-efficientnet); given several times, the ensemble of them",
    )
    parser.add_argument("--flip", action="store_true", help="average each film's score with its mirror image's")
    parser.add_argument("--host", default=host, help=f"0.0.0.0 to be reached from other machines (default: {host})")
    parser.add_argument("--port", type=int, default=port, help=f"(default: {port})")
    parser.add_argument(
        "--device",
        default=environment("PNEUMO_HF_DEVICE"),
        help="of torch: cpu, cuda, ... (default: $PNEUMO_HF_DEVICE, else the GPU where there is one)",
    )
    parser.add_argument(
        "--backend",
        choices=("torch", "onnx"),
        default=environment("PNEUMO_HF_BACKEND", "torch"),
        help="onnx: ONNX Runtime on the CPU, by what `export` wrote; else exported at first use, and kept (default: "
        "$PNEUMO_HF_BACKEND, else torch)",
    )
    parser.add_argument(
        "--auth",
        default=environment("PNEUMO_HF_AUTH"),
        metavar="USER:PASSWORD",
        help="ask for them (or $PNEUMO_HF_AUTH)",
    )
    parser.add_argument(
        "--token",
        default=environment("PNEUMO_HF_TOKEN"),
        help="with --auth: what programs send in place of it, as Authorization: Bearer TOKEN (or $PNEUMO_HF_TOKEN)",
    )
    parser.add_argument(
        "--mcp", action="store_true", help="offer the endpoints as MCP tools: pip install 'gradio[mcp]'"
    )
    return parser


if __name__ == "__main__":
    with one_line_errors():
        given = make_parser().parse_args()
        if given.backend not in ("torch", "onnx"):  # argparse does not check defaults
            raise InputError(f"PNEUMO_HF_BACKEND is {given.backend}: torch or onnx")
        main(given)
