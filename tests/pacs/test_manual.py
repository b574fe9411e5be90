"""The page of the manual about the PACS: its configuration and every command of it, run in its order."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from pneumo_hf.__main__ import make_parser
from tests.conftest import ROOT
from tests.pacs.conftest import DEBIAN, NEEDED, WEB, Nursery, free_port, header, tool, wait_until

PAGE = ROOT / "docs" / "pacs.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)\n```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def is_open(port: str) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", int(port))) == 0


class Terminal:
    """Runs the page's commands in a folder, at ports that are free, `pneumo_hf` without a process of its own."""

    def __init__(self, folder: Path, command: Callable):
        self.folder, self.command = folder, command
        self.ports = {old: str(free_port()) for old in ("4242", "8042", "11112")}
        for name in ("docs", "models"):
            (folder / name).symlink_to(ROOT / name)

    def here(self, text: str) -> str:
        for old, new in self.ports.items():
            text = text.replace(old, new)
        return text

    def start(self, line: str) -> subprocess.Popen:
        line = re.sub("^python ", f"{sys.executable} ", self.here(line))
        path = f"{DEBIAN}:{os.environ['PATH']}"
        process = ["bash", "-ec", line]
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(process, cwd=self.folder, env={**os.environ, "PATH": path}, **pipe)

    def run(self, block: str) -> str:
        said = ""
        for line in block.splitlines():
            if line.startswith("python -m pneumo_hf "):
                name, *arguments = shlex.split(os.path.expandvars(self.here(line)))[3:]
                code, text = self.command(name, *arguments)
            else:
                process = self.start(line)
                text, code = process.communicate()[0], process.returncode
            assert code == 0, text
            said += text
        return said


def test_every_command_of_the_page_runs(
    nursery: Nursery, command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*NEEDED, "img2dcm", "dcmdump"):
        tool(name)
    if not WEB.exists():
        pytest.skip("Orthanc's DICOMweb is not installed: apt-get install orthanc-dicomweb")
    monkeypatch.chdir(tmp_path)
    terminal = Terminal(tmp_path, command)
    (tmp_path / "orthanc.json").write_text(terminal.here(blocks("json")[0]))
    (tmp_path / "route.lua").write_text(blocks("lua")[0])
    install, orthanc, listen, sending, asking, without_a_node = blocks("bash")
    assert install.startswith("apt-get install ")  # done before, or the tools would be missing
    pacs = terminal.start(f"exec {orthanc}")
    node = nursery.start(tmp_path / "log", *shlex.split(terminal.here(listen))[4:])
    try:
        wait_until(lambda: is_open(terminal.ports["8042"]) and is_open(terminal.ports["11112"]))
        terminal.run(sending)
        monkeypatch.setenv("STUDY", header(tmp_path / "film.dcm").StudyInstanceUID)
        assert asking.startswith("STUDY=$(")
        (found,) = wait_until(lambda: json.loads(terminal.run(asking.replace("\n", "; ")) or "[]"))
        assert found["0020000D"]["Value"] == [os.environ["STUDY"]]
        said = terminal.run(without_a_node)
        assert "Research use only" in said and "stored in the study: 1" in said
        reports = {path.name.split("_")[1] for path in (tmp_path / "reports").iterdir()}
        assert reports == {"report.dcm", "heatmap.dcm"}
        node.terminate()
        node.wait(30)
        assert "answers taken 1" in (tmp_path / "log").read_text()
    finally:
        for process in (pacs, node):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        pacs.communicate()


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
