"""Fine-tune Hugging Face checkpoints to detect pneumonia on chest X-rays. Research and teaching only.

The public names are loaded on first use, so that `import pneumo_hf` alone costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pneumo_hf.data.sources import load_data
    from pneumo_hf.evaluation.evaluate import evaluate
    from pneumo_hf.evaluation.recalibration import recalibrate
    from pneumo_hf.imaging.film import load_xray
    from pneumo_hf.inference.predictor import Predictor
    from pneumo_hf.training.train import train

__version__ = "0.2.0"
__all__ = ["Predictor", "evaluate", "load_data", "load_xray", "recalibrate", "train"]

DISCLAIMER = "A second reader for research and teaching. Not a medical device, not a diagnosis."

_PUBLIC = {
    "load_xray": "pneumo_hf.imaging.film",
    "load_data": "pneumo_hf.data.sources",
    "Predictor": "pneumo_hf.inference.predictor",
    "evaluate": "pneumo_hf.evaluation.evaluate",
    "recalibrate": "pneumo_hf.evaluation.recalibration",
    "train": "pneumo_hf.training.train",
}


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'pneumo_hf' has no attribute '{name}'")
    return getattr(import_module(_PUBLIC[name]), name)
