"""The web demo: python app.py --model runs/quickstart, then http://127.0.0.1:7860."""

import argparse
import logging
import os
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before gradio is imported

from pneumo_hf.app.interface import serve
from pneumo_hf.config import one_line_errors
from pneumo_hf.evaluation.ensemble import load_predictor

ROOT = Path(__file__).parent


def main(arguments: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    checkpoints = arguments.model or [os.environ.get("PNEUMO_HF_MODEL", "runs/quickstart")]
    predictor = load_predictor(checkpoints, arguments.device, arguments.flip)
    serve(predictor, ROOT / "data" / "chest_xray_sample", arguments.host, arguments.port)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve a checkpoint as a web demo.")
    parser.add_argument(
        "--model",
        action="append",
        help="a run folder of train_hf.py, or a Hub id (default: $PNEUMO_HF_MODEL, else runs/quickstart); given "
        "several times, the ensemble of them",
    )
    parser.add_argument("--flip", action="store_true", help="average each film's score with its mirror image's")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 to be reached from other machines")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--device", help="of torch: cpu, cuda, ... (default: the GPU where there is one)")
    with one_line_errors():
        main(parser.parse_args())
