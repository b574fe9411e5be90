"""What `rest.py` compares with: an exported network behind FastAPI, and nothing else.

uvicorn bare_server:app, with the checkpoint's folder in CHECKPOINT and the file in ONNX. It reads 8-bit pictures
alone, and knows neither a film's quality, pictures that are no films, limits, tokens nor batches.
"""

import json
import os
from pathlib import Path

import numpy as np
import onnxruntime
from fastapi import FastAPI, UploadFile
from PIL import Image

checkpoint = Path(os.environ["CHECKPOINT"])
processor = json.loads((checkpoint / "preprocessor_config.json").read_text())
labels = json.loads((checkpoint / "config.json").read_text())["id2label"]
positive = next(int(number) for number, label in labels.items() if label == "PNEUMONIA")
size = processor["size"]["width"], processor["size"]["height"]
mean, std = (np.array(processor[key], np.float32).reshape(3, 1, 1) for key in ("image_mean", "image_std"))
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(os.environ["THREADS"])
session = onnxruntime.InferenceSession(os.environ["ONNX"], options, providers=["CPUExecutionProvider"])
app = FastAPI()


@app.post("/score")
def score(file: UploadFile) -> dict[str, float]:  # in one of forty threads
    film = Image.open(file.file).convert("L").resize(size, processor["resample"])
    pixel_values = (np.asarray(film, np.float32) * np.float32(processor["rescale_factor"]) - mean) / std
    logits = session.run(["logits"], {"pixel_values": pixel_values[None]})[0][0].astype(np.float64)
    exponents = np.exp(logits - logits.max())
    return {"probability": float(exponents[positive] / exponents.sum())}
