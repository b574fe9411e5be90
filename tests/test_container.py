"""The container's files, as far as they can be checked without building them."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
LINES = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text()).splitlines()


def test_what_is_copied_is_there_and_not_ignored() -> None:
    kept = [line[1:].rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"]
    for line in LINES:
        if line.startswith("COPY"):
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists() and source.removeprefix("./") in kept, line


def test_it_runs_without_root_and_says_whether_it_is_well() -> None:
    assert "USER 10001" in LINES and LINES.index("USER 10001") < LINES.index('ENTRYPOINT ["python", "app.py"]')
    (check,) = [line for line in LINES if line.startswith("HEALTHCHECK")]
    assert "/health" in check and not any(line.startswith("ADD") for line in LINES)


def test_compose_gives_it_no_more_than_it_needs() -> None:
    (app,) = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"].values()
    assert app["read_only"] is True and app["cap_drop"] == ["ALL"]
    assert all(port.startswith("127.0.0.1:") for port in app["ports"])
    assert {"PNEUMO_HF_AUTH", "PNEUMO_HF_TOKEN"} == set(app["environment"])
    assert any(place.startswith("/tmp") for place in app["tmpfs"])
