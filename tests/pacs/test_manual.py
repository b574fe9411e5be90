"""The page of the manual about the PACS: its configuration and every command of it, run in its order."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pneumo_hf.__main__ import make_parser
from tests.conftest import ROOT
from tests.pacs.conftest import DEBIAN, NEEDED, WEB, free_port, header, tool, wait_until

PAGE = ROOT / "docs" / "pacs.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)\n```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def is_open(port: str) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", int(port))) == 0


class Terminal:
    """Runs the page's commands in a folder, at ports that are free."""

    def __init__(self, folder: Path):
        self.folder, self.servers = folder, []
        self.ports = {old: str(free_port()) for old in ("4242", "8042", "11112")}
        for name in ("docs", "models"):
            (folder / name).symlink_to(ROOT / name)
        path = os.pathsep.join([DEBIAN, str(Path(sys.executable).parent), os.environ["PATH"]])
        self.environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}

    def here(self, text: str) -> str:
        for old, new in self.ports.items():
            text = text.replace(old, new)
        return re.sub(r"^python ", f"{sys.executable} ", text, flags=re.MULTILINE)

    def start(self, command: str) -> subprocess.Popen:
        return subprocess.Popen(
            ["bash", "-ec", self.here(command)],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: str) -> str:
        process = self.start(command)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, said
        return said

    def serve(self, command: str, port: str) -> None:
        self.servers.append(self.start(f"exec {command}"))
        wait_until(lambda: is_open(self.ports[port]))

    def stop(self) -> list[str]:
        for server in self.servers:
            server.terminate()
        return [server.communicate(timeout=30)[0] for server in self.servers]


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    for name in (*NEEDED, "img2dcm", "dcmdump"):
        tool(name)
    if not WEB.exists():
        pytest.skip("Orthanc's DICOMweb is not installed: apt-get install orthanc-dicomweb")
    opened = Terminal(tmp_path)
    yield opened
    opened.stop()


def test_every_command_of_the_page_runs(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "orthanc.json").write_text(terminal.here(blocks("json")[0]))
    (tmp_path / "route.lua").write_text(blocks("lua")[0])
    install, orthanc, listen, sending, asking, without_a_node = blocks("bash")
    assert install.startswith("apt-get install ")  # done before, or the tools would be missing
    terminal.serve(orthanc, "8042")
    terminal.serve(listen, "11112")
    terminal.run(sending)
    (found,) = wait_until(lambda: json.loads(terminal.run(asking) or "[]"))
    study = header(tmp_path / "film.dcm").StudyInstanceUID
    assert found["0020000D"]["Value"] == [study]
    said = terminal.run(f"STUDY={study}\n{without_a_node}")
    assert "Research use only" in said and "stored in the study: 1" in said
    assert {path.name.split("_")[1] for path in (tmp_path / "reports").iterdir()} == {"report.dcm", "heatmap.dcm"}
    assert "answers taken 1" in terminal.stop()[1]
    terminal.servers.clear()


def test_the_table_has_the_options_of_the_help() -> None:
    parser = make_parser()._subparsers._group_actions[0].choices["listen"]
    model = {"--model", "--operating_point", "--flip", "--device", "--backend", "--help"}
    offered = {action.option_strings[-1]: action for action in parser._actions if action.option_strings}
    rows = dict(re.findall(r"^\| (`--[^|]+?) \| (.+) \|$", PAGE.read_text(), re.MULTILINE))
    named = {option for row in rows for option in re.findall(r"--\w+", row)}
    assert named == set(offered) - model
    for row, text in rows.items():
        (first, *others) = re.findall(r"--\w+", row)
        if not others:
            action = offered[first]
            assert text == action.help % {"default": action.default}
