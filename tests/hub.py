"""A stand-in Hub on loopback: what huggingface_hub and datasets ask of the real one, kept in memory.

Clients find it by their environment, before they import huggingface_hub: `environment(address, home)`. The process of
the tests, which has imported it, is led there by `reach(address, monkeypatch)`.
"""

import base64
import hashlib
import json
import os
import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn
import yaml
from fastapi import FastAPI, Request, Response
from huggingface_hub import constants

KINDS = {"model": "", "dataset": "datasets/", "space": "spaces/"}
TOKEN, OWNER = "x", "tester"  # the one token that may write, and where
DATASET_TYPE = re.compile(r"([\w-]+/)?[\w.-]+")  # what the Hub takes in a model-index


class Hub:
    """Repositories by `(kind, id)`: files by path, and a commit number that grows."""

    def __init__(self):
        self.files: dict[tuple[str, str], dict[str, bytes]] = {}
        self.commits: dict[tuple[str, str], int] = defaultdict(int)
        self.private: dict[tuple[str, str], bool] = {}
        self.objects: dict[str, bytes] = {}
        self.tags: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
        self.hardware: dict[str, str] = {}
        self.app = FastAPI()
        self._add_routes()

    def sha(self, repo: tuple[str, str]) -> str:
        return hashlib.sha1(f"{repo} {self.commits[repo]}".encode()).hexdigest()

    def _add_routes(self) -> None:
        api = self.app.api_route
        api("/api/repos/create", methods=["POST"])(self.create)
        api("/api/validate-yaml", methods=["POST"])(self.validate)
        api("/api/whoami-v2", methods=["GET"])(lambda: {"name": "tester", "type": "user", "orgs": []})
        api("/objects/{oid}", methods=["PUT"])(self.put)
        api("/{path:path}", methods=["GET", "HEAD", "POST", "DELETE"])(self.dispatch)

    async def create(self, request: Request) -> Response:
        asked = await request.json()
        name = f"{asked.get('organization') or OWNER}/{asked['name']}"
        repo = (asked.get("type") or "model", name)
        if refusal := self.refusal(request, name):
            return refusal
        if repo in self.files:
            return Response(status_code=409, content=json.dumps({"url": self._address(request, repo)}))
        self.files[repo], self.private[repo] = {}, asked.get("private") or asked.get("visibility") == "private"
        return _json({"url": self._address(request, repo), "id": name, "name": name})

    def refusal(self, request: Request, name: str) -> Response | None:
        """Of what a token may not do: 401 for an unknown one, 403 where it may not write."""
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return Response(status_code=401, content=json.dumps({"error": "Invalid credentials"}))
        if not name.startswith(f"{OWNER}/"):
            return Response(status_code=403, content=json.dumps({"error": "You don't have the rights"}))
        return None

    async def validate(self, request: Request) -> Response:
        """The Hub's check of a card, as far as a model-index goes."""
        card = (await request.json())["content"]
        data = yaml.safe_load(card.split("---")[1])
        types = [result["dataset"]["type"] for m in data.get("model-index", ()) for result in m["results"]]
        wrong = [f"dataset.type {name!r}: no id" for name in types if not DATASET_TYPE.fullmatch(name)]
        errors = [{"message": message} for message in wrong]
        return Response(json.dumps({"errors": errors, "warnings": []}), 400 if wrong else 200)

    async def put(self, oid: str, request: Request) -> Response:
        self.objects[oid] = await request.body()
        return Response()

    async def dispatch(self, path: str, request: Request) -> Response:
        """Everything below a repository: `api/datasets/owner/name/...`, or `datasets/owner/name/resolve/...`."""
        is_api = path.startswith("api/")
        parts = path.removeprefix("api/").split("/")
        kind = {"models": "model", "datasets": "dataset", "spaces": "space"}.get(parts[0], "model")
        parts = parts[1:] if parts[0] in ("models", "datasets", "spaces") else parts
        repo, rest = (kind, "/".join(parts[:2]).removesuffix(".git")), parts[2:]
        if repo not in self.files:
            return Response(status_code=404, headers={"X-Error-Code": "RepoNotFound"})
        if rest[:1] == ["resolve"]:
            return self.resolve(repo, "/".join(rest[2:]), request)
        if not is_api and rest[:1] == ["info"]:
            return await self.lfs_batch(request)
        if (
            rest[:1]
            and rest[0] in ("preupload", "commit", "tag", "hardware")
            and (refusal := self.refusal(request, repo[1]))
        ):
            return refusal
        if rest[:1] == ["tag"]:
            return await self.tag(repo, request)
        if rest[:1] == ["hardware"]:
            self.hardware[repo[1]] = (await request.json())["flavor"]
            return _json({"stage": "BUILDING", "hardware": {"requested": self.hardware[repo[1]]}})
        if rest[:1] == ["preupload"]:
            files = (await request.json())["files"]
            modes = [{**_pick(f, "path"), "uploadMode": "lfs" if f["size"] > 5_000 else "regular"} for f in files]
            return _json({"files": [{**mode, "shouldIgnore": False} for mode in modes]})
        if rest[:1] == ["commit"]:
            return await self.commit(repo, request)
        if rest[:1] == ["tree"]:
            return self.tree(repo, "/".join(rest[2:]), request.query_params.get("recursive", "").lower() == "true")
        if rest[:1] == ["paths-info"]:
            form = await request.form()
            return _json([self._entry(repo, name) for name in form.getlist("paths") if name in self.files[repo]])
        return self.info(repo)

    async def lfs_batch(self, request: Request) -> Response:
        asked = (await request.json())["objects"]
        where = str(request.base_url).rstrip("/")
        objects = [{**o, "actions": {"upload": {"href": f"{where}/objects/{o['oid']}"}}} for o in asked]
        return _json({"transfer": "basic", "objects": objects})

    async def commit(self, repo: tuple[str, str], request: Request) -> Response:
        for line in (await request.body()).splitlines():
            action = json.loads(line)
            value = action["value"]
            if action["key"] == "file":
                self.files[repo][value["path"]] = base64.b64decode(value["content"])
            elif action["key"] == "lfsFile":
                self.files[repo][value["path"]] = self.objects[value["oid"]]
            elif action["key"] == "deletedFile":
                del self.files[repo][value["path"]]
        self.commits[repo] += 1
        address = f"{self._address(request, repo)}/commit/{self.sha(repo)}"
        return _json({"commitUrl": address, "commitOid": self.sha(repo), "success": True})

    async def tag(self, repo: tuple[str, str], request: Request) -> Response:
        """`POST tag/REVISION` names a commit, once; `DELETE tag/NAME` forgets it."""
        if request.method == "DELETE":
            known = self.tags[repo].pop(request.url.path.rsplit("/", 1)[1], None)
            return Response(status_code=200 if known else 404, headers={"X-Error-Code": "RevisionNotFound"})
        name = (await request.json())["tag"]
        if name in self.tags[repo]:
            return Response(status_code=409)
        self.tags[repo][name] = self.sha(repo)
        return Response()

    def resolve(self, repo: tuple[str, str], path: str, request: Request) -> Response:
        if path not in self.files[repo]:
            return Response(
                status_code=404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": self.sha(repo)}
            )
        content = self.files[repo][path]
        headers = {"X-Repo-Commit": self.sha(repo), "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        headers["Accept-Ranges"] = "bytes"
        if request.method == "HEAD":
            return Response(headers={**headers, "Content-Length": str(len(content))})
        if asked := request.headers.get("range"):
            first, last = asked.removeprefix("bytes=").split("-")
            start, end = int(first), min(int(last or len(content) - 1), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            return Response(content[start : end + 1], status_code=206, headers=headers)
        return Response(content, headers=headers)

    def tree(self, repo: tuple[str, str], folder: str, recursive: bool) -> Response:
        below, found = f"{folder}/" if folder else "", {}
        for path in sorted(self.files[repo]):
            if path.startswith(below):
                parts = path.removeprefix(below).split("/")
                for depth in range(1, len(parts)):
                    name = below + "/".join(parts[:depth])
                    if recursive or depth == 1:
                        found[name] = {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
                if recursive or len(parts) == 1:
                    found[path] = self._entry(repo, path)
        if folder and not found:
            return Response(status_code=404, headers={"X-Error-Code": "EntryNotFound"})
        return _json(list(found.values()))

    def info(self, repo: tuple[str, str]) -> Response:
        siblings = [{"rfilename": path} for path in sorted(self.files[repo])]
        described = {"id": repo[1], "sha": self.sha(repo), "private": self.private[repo], "siblings": siblings}
        return _json({**described, "tags": [], "downloads": 0, "gated": False, "disabled": False})

    def _entry(self, repo: tuple[str, str], path: str) -> dict:
        content = self.files[repo][path]
        return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def _address(self, request: Request, repo: tuple[str, str]) -> str:
        return f"{request.base_url}{KINDS[repo[0]]}{repo[1]}"


@contextmanager
def running_hub() -> Iterator[tuple[Hub, str]]:
    """A Hub that serves on a free port of loopback, and its address."""
    hub = Hub()
    server = uvicorn.Server(uvicorn.Config(hub.app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield hub, f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


def environment(address: str, home: str, token: str = TOKEN) -> dict[str, str]:
    """For a process that is to take `address` for the Hub."""
    own = {
        "HF_ENDPOINT": address,
        "HF_TOKEN": token,
        "HF_HOME": home,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
    }
    return {**os.environ, **own}


def reach(address: str, monkeypatch: pytest.MonkeyPatch, token: str = TOKEN) -> None:
    """Make this process take `address` for the Hub: imports that a process of its own would need take 7 seconds."""
    own = {"ENDPOINT": address, "HF_HUB_DISABLE_XET": True, "HF_HUB_OFFLINE": False}
    for name, value in own.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", token)


def _json(value: object) -> Response:
    return Response(json.dumps(value), media_type="application/json")


def _pick(values: dict, *names: str) -> dict:
    return {name: values[name] for name in names}
