"""A pushed Space as the Hub runs it: its own files alone, an empty environment, the model by its id."""

import csv
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
import yaml
from gradio_client import Client, handle_file

from pneumo_hf import Predictor
from tests.hub import environment, running_hub

ROOT = Path(__file__).parents[1]
CLONE = (
    "import sys; from huggingface_hub import snapshot_download as s; s(sys.argv[1], repo_type='space', local_dir='.')"
)
ON_NO_GPU = """
import runpy, sys
sys.modules["torch"] = None  # so that spaces leaves the GPU alone; its processes and pickles are the real ones
import spaces
del sys.modules["torch"]
sys.argv = ["app.py", *sys.argv[1:]]
runpy.run_path("app.py", run_name="__main__")
"""
START = 300  # seconds: torch is imported for the first time, the model downloaded


class Device(BaseHTTPRequestHandler):
    """Stands in for the service that gives ZeroGPU's Spaces a GPU: always, and at once."""

    def do_POST(self) -> None:
        body = json.dumps({"idle": True, "nvidiaIndex": 0, "nvidiaUUID": "x", "allowToken": "x"}).encode()
        self.server.asked.append(self.path.split("?")[0])
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


def run(*command: str, env: dict[str, str], cwd: Path) -> None:
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@contextmanager
def serving(folder: Path, env: dict[str, str], *command: str | Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """The app, by a command in a folder, once it answers: its address and process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables, url, log = {**env, "GRADIO_SERVER_PORT": str(port)}, f"http://127.0.0.1:{port}", folder / "app.log"
    with log.open("w") as file:
        app = subprocess.Popen(command, env=variables, cwd=folder, stdout=file, stderr=subprocess.STDOUT)
    try:
        for _ in range(2 * START):
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5).read()
                break
            except OSError:
                assert app.poll() is None, log.read_text()[-3000:]
                time.sleep(0.5)
        yield url, app
    finally:
        app.terminate()
        app.wait()


@pytest.mark.install
@pytest.mark.timeout(1800)
def test_a_pushed_space_runs_from_its_own_files(tiny_run: Path, films_folder: Path, tmp_path: Path) -> None:
    with (tiny_run / "report" / "predictions_test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[::13]
    with running_hub() as (_, address):
        here = environment(address, str(tmp_path / "here"))
        asked = ["--model", str(tiny_run), "--repo_id", "tester/pneumonia", "--space", "tester/demo"]
        run(sys.executable, "-m", "pneumo_hf", "push", *asked, env=here, cwd=ROOT)

        space = tmp_path / "space"
        space.mkdir()
        there = environment(address, str(tmp_path / "there"))
        for name in ("PYTHONPATH", "VIRTUAL_ENV"):  # what would lend it our own packages
            there.pop(name, None)
        run(sys.executable, "-c", CLONE, "tester/demo", env=there, cwd=space)
        card = yaml.safe_load((space / "README.md").read_text().split("---")[1])
        run(sys.executable, "-m", "venv", str(tmp_path / "venv"), env=there, cwd=space)
        python = tmp_path / "venv" / "bin" / "python"
        run(str(python), "-m", "pip", "install", "--quiet", "-r", "requirements.txt", env=there, cwd=space)
        code = "import gradio, pneumo_hf; print(gradio.__version__, pneumo_hf.__file__)"
        command = [python, "-c", code]
        installed = subprocess.run(command, env=there, cwd=space, capture_output=True, text=True, check=True)
        installed = installed.stdout.split()
        assert installed[0].rsplit(".", 1)[0] == card["sdk_version"].rsplit(".", 1)[0]
        assert installed[1] == str(space / "pneumo_hf" / "__init__.py")

        with serving(space, there, python, "app.py") as (url, _):
            client = Client(url, verbose=False)
            for row in rows:
                answer = client.predict(handle_file(films_folder / row["path"]), api_name="/predict")
                assert answer["probability"] == pytest.approx(float(row["probability"]), abs=1e-5)
            labels = {part["props"].get("value") for part in client.config["components"] if part["type"] == "button"}
            assert {"Pneumonia", "Normal"} <= labels  # the examples


@pytest.mark.install
@pytest.mark.timeout(600)
def test_the_path_of_zero_gpu_with_the_real_package(tiny_run: Path, films_folder: Path, tmp_path: Path) -> None:
    to = ["--quiet", "--no-deps", "--target", str(tmp_path / "packages")]
    run(sys.executable, "-m", "pip", "install", *to, "spaces", env=dict(os.environ), cwd=tmp_path)
    (tmp_path / "temporary").mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), Device) as service:
        service.asked = []
        threading.Thread(target=service.serve_forever, daemon=True).start()
        for name in ("app.py", "pneumo_hf", "data"):
            (tmp_path / name).symlink_to(ROOT / name)
        environment = os.environ | {
            "SPACES_ZERO_GPU": "true",
            "SPACES_ZERO_DEVICE_API_URL": f"http://127.0.0.1:{service.server_address[1]}",
            "PYTHONPATH": os.pathsep.join((str(tmp_path / "packages"), str(ROOT))),
            "OMP_NUM_THREADS": "1",  # the threads of OpenMP do not outlive a fork
            "TMPDIR": str(tmp_path / "temporary"),
        }
        given = (sys.executable, "-c", ON_NO_GPU, "--model", str(tiny_run))
        with serving(tmp_path, environment, *given) as (url, app):
            client, predictor = Client(url, verbose=False), Predictor(tiny_run, device="cpu")
            for film in sorted((films_folder / "test").rglob("*.jpeg"))[::20]:
                answer = client.predict(handle_file(film), api_name="/predict")
                assert answer["probability"] == pytest.approx(predictor([film])[0]["probability"], abs=1e-5)
                assert Path(client.predict(handle_file(film), 0.5, api_name="/explain")).stat().st_size > 1000
                assert "Read by" in Path(client.predict(handle_file(film), 0.5, api_name="/case_report")).read_text()
            table, _, _ = client.predict([handle_file(film)], api_name="/predict_batch")
            assert len(table["data"]) == 1
            assert service.asked[0] == "/startup-report" and service.asked.count("/schedule") >= 9
            uploads = [path for path in (tmp_path / "temporary").rglob("*.jpeg") if path.stem == film.stem]
            assert uploads and all("pneumo_hf_app_" in str(path) for path in uploads)  # where they are swept
            children = psutil.Process(app.pid).children(recursive=True)
            assert children
        assert not psutil.wait_procs(children, timeout=10)[1]
        service.shutdown()
