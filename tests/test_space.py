"""A pushed Space as the Hub runs it: its own files alone, an empty environment, the model by its id."""

import csv
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from gradio_client import Client, handle_file

from tests.hub import environment, running_hub

ROOT = Path(__file__).parents[1]
CLONE = (
    "import sys; from huggingface_hub import snapshot_download as s; s(sys.argv[1], repo_type='space', local_dir='.')"
)
START = 300  # seconds: torch is imported for the first time, the model downloaded


def run(*command: str, env: dict[str, str], cwd: Path) -> None:
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@contextmanager
def serving(python: Path, folder: Path, env: dict[str, str]) -> Iterator[str]:
    """`python app.py` in a folder, until it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables, url, log = {**env, "GRADIO_SERVER_PORT": str(port)}, f"http://127.0.0.1:{port}", folder / "app.log"
    with log.open("w") as file:
        app = subprocess.Popen([python, "app.py"], env=variables, cwd=folder, stdout=file, stderr=subprocess.STDOUT)
    try:
        for _ in range(2 * START):
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5).read()
                break
            except OSError:
                assert app.poll() is None, log.read_text()[-3000:]
                time.sleep(0.5)
        yield url
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

        with serving(python, space, there) as url:
            client = Client(url, verbose=False)
            for row in rows:
                answer = client.predict(handle_file(films_folder / row["path"]), api_name="/predict")
                assert answer["probability"] == pytest.approx(float(row["probability"]), abs=1e-5)
            assert "dataset" in {part["type"] for part in client.config["components"]}  # gradio's word for examples
