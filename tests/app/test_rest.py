"""REST: the predictor's scores as JSON, every refusal with its status, and figures that name no film."""

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.middleware import Middleware
from fastapi.testclient import TestClient

from pneumo_hf import Predictor
from pneumo_hf.app import rest
from pneumo_hf.app.answers import Answers
from pneumo_hf.app.interface import Guard
from pneumo_hf.app.rest import make_routes


@pytest.fixture(scope="module")
def predictor(tiny_run: Path) -> Predictor:
    return Predictor(tiny_run, device="cpu")


@pytest.fixture(scope="module")
def client(predictor: Predictor) -> Iterator[TestClient]:
    with TestClient(FastAPI(routes=make_routes(predictor, Answers(predictor)), openapi_url=None)) as opened:
        yield opened


@pytest.fixture(scope="module")
def films(films_folder: Path) -> list[Path]:
    return [next((films_folder / "test" / label).iterdir()) for label in ("NORMAL", "PNEUMONIA")]


def sent(*films: Path) -> list[tuple]:
    return [("files", (film.name, film.read_bytes())) for film in films]


def test_many_films_get_the_predictors_scores_in_their_order(
    client: TestClient, predictor: Predictor, films: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("no film")
    answer = client.post("/v1/score", files=sent(*films, tmp_path / "notes.txt"))
    said = answer.json()
    assert answer.status_code == 200 and len(said["model_version"]) == 12 and "not a diagnosis" in said["notice"]
    assert said["threshold"] == predictor.settings.threshold
    for row, film, expected in zip(said["films"], films, predictor(films), strict=False):
        assert row["name"] == film.name
        assert row["probability"] == pytest.approx(expected["probability"], abs=1e-6)
        assert (row["prediction"], row["flag"]) == (expected["prediction"], expected["flag"])
    unread = said["films"][2]
    assert unread["probability"] is None and "not a picture" in unread["error"]


def test_an_operating_point_decides(client: TestClient, predictor: Predictor, films: list[Path]) -> None:
    for name, threshold in predictor.settings.thresholds.items():
        said = client.post("/v1/score", files=sent(films[1]), data={"operating_point": name}).json()
        assert (said["operating_point"], said["threshold"]) == (name, threshold)
        (row,) = said["films"]
        if row["flag"] in ("", "review"):
            assert (row["prediction"] == "PNEUMONIA") == (row["probability"] >= threshold)


def test_a_heatmap_is_a_picture(client: TestClient, films: list[Path], tmp_path: Path) -> None:
    answer = client.post("/v1/explain", files={"file": films[1].read_bytes()}, data={"opacity": "0.4"})
    assert answer.headers["content-type"] == "image/png" and answer.content.startswith(b"\x89PNG")
    refused = client.post("/v1/explain", files={"file": b"no film"})
    assert refused.status_code == 422 and "not a picture" in refused.json()["error"]


def test_every_refusal_has_its_status_and_says_why(
    client: TestClient, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(status: int, words: str, **options) -> None:
        answer = client.post("/v1/score", **options)
        said = answer.json()
        assert answer.status_code == status and words in said["error"] and len(said["request_id"]) == 16

    refused(415, "multipart/form-data", json={"files": []})
    damaged = {"content-type": "multipart/form-data; boundary=x"}
    refused(400, "Invalid multipart data", content=b"--x\r\n[None]--x--\r\n", headers=damaged)
    refused(422, "files", data={"operating_point": ""}, files={"other": b""})
    refused(422, "no operating point of that name", files=sent(films[0]), data={"operating_point": "best"})
    refused(413, "64 are the most", files=sent(*[films[0]] * 65))
    monkeypatch.setattr(rest, "LARGEST_BODY", 1000)
    refused(413, "a request has at most", files=sent(films[0]))
    monkeypatch.undo()
    assert client.get("/v1/nothing").status_code == 404 and client.get("/v1/nothing").json()["error"]
    assert client.get("/v1/score").status_code == 405


def test_what_is_too_much_is_asked_to_come_again_and_health_answers_all_the_while(
    predictor: Predictor, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of single films, too, which the threads of the page would take in without an end."""
    monkeypatch.setattr(rest, "MOST_WAITING", 8)
    answers, free = Answers(predictor), threading.Event()

    def slow(film: bytes, point: str) -> dict:
        free.wait(30)
        return Answers.__call__(answers, film, point)

    slow.point, slow.thresholds, slow.ready = answers.point, answers.thresholds, True
    app = FastAPI(routes=make_routes(predictor, slow), openapi_url=None)  # type: ignore[arg-type]
    with TestClient(app) as client, ThreadPoolExecutor(20) as pool:
        sending = [pool.submit(client.post, "/v1/score", files=sent(films[0])) for _ in range(20)]
        while sum(one.done() for one in sending) < 12:
            assert client.get("/health").json()["ready"]
        free.set()
        answered = [one.result() for one in sending]
        assert sorted(answer.status_code for answer in answered) == [200] * 8 + [429] * 12
        refused = next(answer for answer in answered if answer.status_code == 429)
        assert refused.headers["retry-after"] == "2" and "send this again" in refused.json()["error"]
        assert client.post("/v1/score", files=sent(*films)).status_code == 200  # their places were given back
        monkeypatch.setattr(rest, "MOST_REQUESTS", 0)
        assert client.post("/v1/score", files=sent(films[0])).status_code == 429
        monkeypatch.undo()
        monkeypatch.setattr(rest, "MOST_HELD", 1000)
        assert client.post("/v1/score", files=sent(films[0])).status_code == 429


def test_health_says_when_there_is_more_to_prepare(predictor: Predictor) -> None:
    answers = Answers(predictor)
    with TestClient(FastAPI(routes=make_routes(predictor, answers), openapi_url=None)) as client:
        for ready, status in ((False, 503), (True, 200)):
            answers.ready = ready
            found = client.get("/health")
            assert (found.status_code, found.json()["ready"]) == (status, ready)


def test_health_and_figures_that_name_no_film(client: TestClient, films: list[Path]) -> None:
    assert client.get("/health").json()["ready"] is True
    client.post("/v1/score", files=[("files", ("Doe_Jane.png", films[0].read_bytes()))])
    client.post("/v1/Doe_Jane", files=sent(films[0]))
    figures = client.get("/metrics").text
    assert 'pneumo_hf_request_seconds_count{path="score",status="200"}' in figures
    assert "pneumo_hf_films_total{flag=" in figures and "pneumo_hf_films_waiting 0.0" in figures
    assert "Doe" not in figures and films[0].stem not in figures


def test_the_openapi_document_lists_what_is_refused(client: TestClient) -> None:
    document = client.get("/v1/openapi.json").json()
    assert set(document["paths"]) == {"/score", "/explain"}
    assert {"200", "401", "413", "415", "422", "429"} <= set(document["paths"]["/score"]["post"]["responses"])
    assert "not a diagnosis" in document["info"]["description"]


@pytest.mark.parametrize("root", ["", "/behind/a/proxy"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Bearer s3cret"}, 200),
        ({"Authorization": "bearer s3cret"}, 200),
        ({"Authorization": "Bearer ward:password"}, 200),
        ({"Authorization": "Basic d2FyZDpwYXNzd29yZA=="}, 200),
    ],
)
def test_programs_say_who_they_are(
    predictor: Predictor, films: list[Path], headers: dict, status: int, root: str
) -> None:
    guards, routes = [Middleware(Guard, ("ward", "password"), "s3cret")], make_routes(predictor, Answers(predictor))
    with TestClient(FastAPI(routes=routes, openapi_url=None, middleware=guards, root_path=root)) as client:
        answer = client.post(f"{root}/v1/score", files=sent(films[0]), headers=headers)
        assert answer.status_code == status and (status == 200) != ("WWW-Authenticate" in answer.headers)
        assert status == 200 or client.post("/v1/score", files=sent(films[0]), headers=headers).status_code == 401
        assert client.get(f"{root}/metrics", headers=headers).status_code == status
        assert client.get("/health").status_code == client.get(f"{root}/v1/docs").status_code == 200
        script = re.search(r'src="([^"]+)"', client.get(f"{root}/v1/docs").text)[1]
        assert script.startswith(f"{root}/v1/docs-files/") and client.get(script).status_code == 200
        for way in (f"{script}/../../score", "/v1/docs-files/..%2fscore", "/v1/docs-files/%2e%2e/score"):
            assert client.post(way, files=sent(films[0])).status_code in (401, 404, 405)
