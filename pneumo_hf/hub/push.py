"""A finished run becomes a model repository of the Hub, and a Space that serves it; nothing private goes along."""

import json
import logging
import re
from contextlib import suppress
from pathlib import Path

from httpx2 import HTTPError  # the client of huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, SpaceCard, SpaceCardData
from huggingface_hub.errors import HFValidationError, RevisionNotFoundError

from pneumo_hf import DISCLAIMER, __version__
from pneumo_hf.errors import InputError
from pneumo_hf.hub.card import WITH_FILMS, shows_public_films
from pneumo_hf.hub.scan import what_must_not_leave
from pneumo_hf.reporting.names import FIGURES

logger = logging.getLogger(__name__)

UPLOADED = (  # of a run folder; what names films (predictions, rejected.csv) stays at home
    "config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "chest_detector.safetensors",
    "clinical.json",
    "README.md",
    "recipe.yaml",
    "hidden_head.py",
    "onnx/*.onnx",
    "report/*.json",
    "report/*.png",
    "report/index.html",
    "report/history.csv",
    "report/threshold_curve.csv",
)
NEEDED = ("config.json", "model.safetensors", "preprocessor_config.json", "README.md", "report/metrics.json")
SAMPLE = "data/chest_xray_sample"
SPACE_FILES = (  # and nothing else that may lie in a checkout
    "app.py",
    "requirements.txt",
    "LICENSE",
    "pneumo_hf/**/*.py",
    "pneumo_hf/**/*.jinja",
    "pneumo_hf/app/assets/*.css",
    "pneumo_hf/app/assets/*.js",
    "pneumo_hf/imaging/mean_chest.png",
    f"{SAMPLE}/README.md",
    f"{SAMPLE}/test-00000-of-00001.parquet",  # the app's examples
)
ENDPOINT_FILES = ("requirements.txt", "LICENSE", *(name for name in SPACE_FILES if name.startswith("pneumo_hf/")))
MARKS = {"model": "report/metrics.json", "space": "model_id.txt"}  # by which `push` knows its own work again


def push(
    run: Path,
    repo_id: str,
    private: bool,
    root: Path,
    space: str | None,
    hardware: str | None,
    films_are_public: bool = False,
    endpoint: bool = False,
) -> list[str]:
    """Upload a run in one commit, tagged with the package's version; on request, a Space that serves it.

    Args:
        root: of the project, whose app and package the Space gets.
        space: its id.
        hardware: of the Space: None for the free CPU, "zero-a10g" for ZeroGPU.
        films_are_public: whoever pushes says that anyone may see the films, which are not the Kermany set's.
        endpoint: with the package and a handler, by which an Inference Endpoint reads DICOM, decides and abstains.

    Returns:
        The addresses of what was made or brought up to date.

    Raises:
        InputError: the run is not whole, something private or unsafe lies in it, or the Hub refuses.
    """
    if hardware and not space:
        raise InputError("--zero_gpu is for a Space: give --space OWNER/NAME, too")
    if (space or endpoint) and not (root / "app.py").is_file():
        what = "a Space is" if space else "an endpoint's handler is"
        raise InputError(f"{what} made of the project's folder, and {root} is not one: run it from a checkout")
    files = _run_files(run, repo_id, films_are_public)
    if endpoint:
        files |= endpoint_files(root)
    addresses = [_upload(repo_id, "model", files, private, f"pneumo_hf {__version__}")]
    if space:
        files = space_files(root, repo_id)
        addresses.append(_upload(space, "space", files, private, f"serves {repo_id}", hardware))
        if private:
            logger.info("a private Space reads a private model with a token: give it one as its secret HF_TOKEN")
    return addresses


def _run_files(run: Path, repo_id: str, films_are_public: bool) -> dict[str, Path | bytes]:
    """What of a run goes to the Hub, by its name there; the card calls the model by its id."""
    files = {path.relative_to(run).as_posix(): path for pattern in UPLOADED for path in sorted(run.glob(pattern))}
    if missing := [name for name in NEEDED if name not in files]:
        raise InputError(f"{run} is no finished run of train_hf.py: it has no {', '.join(missing)}")
    if not films_are_public and not shows_public_films(run):
        shown = set(FIGURES) - WITH_FILMS  # any other picture may be one of a film
        files = {
            name: path
            for name, path in files.items()
            if Path(name).name not in WITH_FILMS and (path.suffix != ".png" or path.name in shown)
        }
        logger.info(
            "the pictures that show films stay at home, and the page with them: the films are not Kermany's, by their "
            "content (--films_are_public if anyone may see them)"
        )
    if found := what_must_not_leave(run, files):
        raise InputError(f"not uploaded: {'; '.join(found)}")
    card = (run / "README.md").read_text(encoding="utf-8")
    metrics = json.loads((run / "report" / "metrics.json").read_text(encoding="utf-8"))
    if not isinstance(metrics, dict) or not isinstance(name := metrics.get("model"), str):
        raise InputError(f"{run / 'report' / 'metrics.json'} is no report of train_hf.py: it names no model")
    for code in ('"{}"', "--model {} "):  # of Python and JavaScript, of the command line
        card = card.replace(code.format(name), code.format(repo_id))
    return {**files, "README.md": card.encode()}


def space_files(root: Path, model: str) -> dict[str, Path | bytes]:
    """Collect what a Space needs: its card, the app, the package, pinned requirements, and the model's id."""
    card = SpaceCard.from_template(
        SpaceCardData(
            title="Pneumonia or normal?",
            emoji="🫁",
            colorFrom="green",
            colorTo="gray",
            sdk="gradio",
            sdk_version=_pinned(root, "gradio"),
            python_version="3.11",
            app_file="app.py",
            short_description="A second look at a chest X-ray. Not a diagnosis.",
            models=[model],
            license="apache-2.0",
            preload_from_hub=[model],
        ),
        template_str="---\n{{ card_data }}\n---\n\n# Pneumonia or normal?\n\n{{ text }}\n",
        text=f"{DISCLAIMER} Made with pneumo_hf {__version__}; the model is [{model}](https://huggingface.co/{model}).",
    )
    files: dict[str, Path | bytes] = {"README.md": str(card).encode(), "model_id.txt": f"{model}\n".encode()}
    for pattern in SPACE_FILES:
        files |= {path.relative_to(root).as_posix(): path for path in sorted(root.glob(pattern))}
    return files


def endpoint_files(root: Path) -> dict[str, Path | bytes]:
    """Collect what an Inference Endpoint needs beside the checkpoint: handler, package and requirements."""
    files: dict[str, Path | bytes] = {"handler.py": root / "pneumo_hf" / "hub" / "handler.py"}
    for pattern in ENDPOINT_FILES:
        files |= {path.relative_to(root).as_posix(): path for path in sorted(root.glob(pattern))}
    return files


def _pinned(root: Path, package: str) -> str:
    """The lowest tested version: `gradio>=6.31,<6.32` -> 6.31.0."""
    found = re.search(rf"^{package}>=([\d.]+)", (root / "requirements.txt").read_text(), re.MULTILINE)
    version = found[1] if found else ""
    return version + ".0" * (2 - version.count("."))


def _upload(
    repo_id: str, kind: str, files: dict[str, Path | bytes], private: bool, message: str, hardware: str | None = None
) -> str:
    """One commit that makes the repository hold these files and, of what an earlier push left, no others; tagged."""
    if repo_id.count("/") != 1:
        raise InputError(_not_a_name(repo_id))
    hub, sdk, tag = HfApi(), "gradio" if kind == "space" else None, f"v{__version__}"
    try:
        url = hub.create_repo(repo_id, repo_type=kind, private=private, exist_ok=True, space_sdk=sdk)
        if private and not hub.repo_info(repo_id, repo_type=kind).private:
            raise InputError(f"{repo_id} is there already, and public: --private cannot hide it; choose another name")
        before = set(hub.list_repo_files(repo_id, repo_type=kind)) - {".gitattributes"}
        if before - {"README.md"} and MARKS[kind] not in before:
            raise InputError(f"{repo_id} is taken: it holds something else ({min(before)}); choose another name")
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        operations += [CommitOperationDelete(name) for name in sorted(before - set(files))]
        hub.create_commit(repo_id, operations, commit_message=message, repo_type=kind)
        with suppress(RevisionNotFoundError):  # of an earlier push; the tag shows which version wrote the files
            hub.delete_tag(repo_id, tag=tag, repo_type=kind)
        hub.create_tag(repo_id, tag=tag, repo_type=kind)
        if hardware:
            hub.request_space_hardware(repo_id, hardware)
    except (OSError, ValueError, HTTPError) as error:  # huggingface_hub's own are among these
        raise InputError(_why(repo_id, error)) from error
    logger.info("%s: %d files", url, len(files))
    return str(url)


def _not_a_name(repo_id: str) -> str:
    return f"{repo_id} is no name for a repository: OWNER/NAME"


def _why(repo_id: str, error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, HFValidationError):
        return _not_a_name(repo_id)
    if isinstance(error, ValueError):  # the card's metadata
        return f"{repo_id}: the Hub refuses: {' '.join(str(error).split())}"
    if status == 401:
        return f"{repo_id}: the Hub does not know the token: log in with `hf auth login`, or set HF_TOKEN"
    if status == 403:
        return f"{repo_id}: the token may not write there: is the owner right, and is it a write token?"
    if status is not None:
        return f"{repo_id}: the Hub refuses ({status}): {str(error).splitlines()[0]}"
    return f"{repo_id}: the Hub cannot be reached ({type(error).__name__}): is there a network?"
