"""Apps that run: one that most tests ask, and others for those who need their own."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.app.browser import CHROMIUM, LAPTOP, OPTIONS

ROOT = Path(__file__).parents[2]


class App(NamedTuple):
    url: str
    process: subprocess.Popen
    temporary: Path  # its TMPDIR
    log: Path  # what it prints


@contextmanager
def serving(run: Path, *options: str, log=None, **environment: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """The app with a checkpoint on a free port: its address and process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "app.py", "--model", str(run), "--port", str(port), *options]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment}, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=2).read()
                break
            except OSError:
                assert process.poll() is None, "the app ended"
                time.sleep(0.25)
        yield address, process
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="session")
def app(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The app of all tests that only ask it something: to start one takes 12 seconds of a core."""
    folder = tmp_path_factory.mktemp("app")
    temporary, log = folder / "tmp", folder / "log"
    temporary.mkdir()
    options = ["--mcp"] if find_spec("mcp") else []
    environment = {"TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"}  # the log is read while it runs
    with log.open("w") as file, serving(tiny_run, *options, log=file, **environment) as (url, process):
        yield App(url, process, temporary, log)


@pytest.fixture(scope="session")
def url(app: App) -> str:
    return app.url


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Chromium for the tests of a module: playwright's loop, once it runs, leaves no place for another's."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, url: str) -> Iterator:
    """A page at the app, that asks nobody else for anything."""
    page, outside = browser.new_page(viewport=LAPTOP), []
    page.on("request", lambda request: outside.append(request.url))
    page.goto(url)
    yield page
    page.close()
    assert all(address.startswith((url, "data:", "blob:", "file:")) for address in outside)
