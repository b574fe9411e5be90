# The app on a CPU: docker build -t pneumo_hf . && docker compose up. Linted, not yet built.
FROM python:3.11-slim-bookworm

ENV PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    GRADIO_SERVER_NAME=0.0.0.0 GRADIO_SERVER_PORT=7860 HF_HOME=/tmp/huggingface HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /app

# the CPU build of PyTorch first: the one of PyPI brings 3 GB of CUDA along
RUN pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu
COPY requirements.txt ./
RUN pip install -r requirements.txt onnxruntime==1.32.0 onnx==1.23.2 onnxscript==0.7.2

COPY app.py LICENSE ./
COPY pneumo_hf ./pneumo_hf
COPY models ./models
COPY data/chest_xray_sample/test-00000-of-00001.parquet ./data/chest_xray_sample/

RUN useradd --system --no-create-home --uid 10001 pneumo
USER 10001
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=90s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/health', timeout=4)"]
ENTRYPOINT ["python", "app.py"]
