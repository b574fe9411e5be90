"""A finished run becomes a model repository of the Hub, and a Space that serves it; nothing private goes along."""

import csv
import json
import logging
import re
from pathlib import Path

from httpx2 import HTTPError  # the client of huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, SpaceCard, SpaceCardData
from huggingface_hub.errors import HFValidationError

from pneumo_hf import DISCLAIMER, __version__
from pneumo_hf.config import InputError

logger = logging.getLogger(__name__)

UPLOADED = (  # of a run folder; what names films (predictions, rejected.csv) stays at home
    *("config.json", "model.safetensors", "preprocessor_config.json", "chest_detector.safetensors", "README.md"),
    *("recipe.yaml", "hidden_head.py", "onnx/*.onnx", "report/*.json", "report/*.png", "report/index.html"),
    *("report/history.csv", "report/threshold_curve.csv"),
)
WITH_FILMS = {f"report/{name}" for name in ("mistakes.png", "abstained.png", "heatmaps.png", "index.html")}
NEEDED = ("config.json", "model.safetensors", "preprocessor_config.json", "README.md", "report/metrics.json")
UNSAFE_NAMES = re.compile(
    r"\.(bin|pt|pth|pkl|pickle|ckpt|joblib|dcm)$|^(optimizer|scheduler|training_args|rng_state|scaler)\b", re.I
)
PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")  # the last: torch.save's zip
LOCAL_PATH = re.compile(
    r"(?<![\w.:/])(/(home|root|tmp|mnt|media|Users|work|workspace|data|scratch)/[\w.-]+|[A-Z]:\\\w+)"
)
FILM_NAME = re.compile(
    r"\b(person\d+_(bacteria|virus)_\d+|(NORMAL2-)?IM-\d{3,}-\d{3,}|(BACTERIA|VIRUS|NORMAL)-\d{4,}-\d+"
    r"|[\w-]+\.(dcm|jpe?g))\b"
)
EXAMPLE_NAMES = {"film.jpeg", "film.dcm"}  # of the card's code
TEXTS = {".json", ".yaml", ".md", ".csv", ".html", ".py", ".txt"}
SPACE_PACKAGE = ("app.py", "requirements.txt", "LICENSE", "pneumo_hf")


def push(run: Path, repo_id: str, private: bool, root: Path, space: str | None, hardware: str | None) -> list[str]:
    """Upload a run in one commit, tagged with the package's version; on request, a Space that serves it.

    Args:
        root: of the project, whose app and package the Space gets.
        space: its id. hardware: of the Space: None for the free CPU, "zero-a10g" for ZeroGPU.

    Returns:
        The addresses of what was made or brought up to date.

    Raises:
        InputError: the run is not whole, something private or unsafe lies in it, or the Hub refuses.
    """
    files = {path.relative_to(run).as_posix(): path for pattern in UPLOADED for path in sorted(run.glob(pattern))}
    if not _films_are_public(run):
        files = {name: path for name, path in files.items() if name not in WITH_FILMS}
        logger.info("the pictures that show films stay at home, and the page with them: the films are not Kermany's")
    if missing := [name for name in NEEDED if name not in files]:
        raise InputError(f"{run} is no finished run of train_hf.py: it lacks {', '.join(missing)}")
    if found := what_must_not_leave(run, files):
        raise InputError(f"not uploaded: {'; '.join(found)}")
    hub = HfApi()
    try:
        addresses = [_upload(hub, repo_id, "model", files, private, f"pneumo_hf {__version__}")]
        hub.create_tag(repo_id, tag=f"v{__version__}", exist_ok=True)
        if space:
            addresses.append(_upload(hub, space, "space", space_files(root, repo_id), private, f"serves {repo_id}"))
            if hardware:
                hub.request_space_hardware(space, hardware)
    except (OSError, ValueError, HTTPError) as error:  # huggingface_hub's own are among these
        raise InputError(_why(repo_id, error)) from error
    return addresses


def what_must_not_leave(run: Path, files: dict[str, Path]) -> list[str]:
    """Why a run should not be uploaded, by name and by content: `["FILE: reason", ...]`, empty where all is well.

    Names are looked at in the whole folder: a pickle that would not be uploaded does not belong there either.
    """
    found = [
        f"{path.relative_to(run)}: a pickle or training state by its name"
        for path in sorted(run.rglob("*"))
        if path.is_file() and UNSAFE_NAMES.search(path.name)
    ]
    patients = _patients(run)
    for name, path in files.items():
        with path.open("rb") as file:
            if file.read(4).startswith(PICKLES):
                found.append(f"{name}: a pickle by its content")
        if path.suffix in TEXTS:
            text = re.sub(r"base64,[\w+/=]+", "", path.read_text(errors="replace"))
            if match := LOCAL_PATH.search(text):
                found.append(f"{name}: the local path {match[0]}")
            films = [match[0] for match in FILM_NAME.finditer(text) if match[0] not in EXAMPLE_NAMES]
            if named := [*films, *patients.intersection(re.findall(r"[\w.-]{4,}", text))]:
                found.append(f"{name}: the film or patient {named[0]}")
    return found


def space_files(root: Path, model: str) -> dict[str, Path | bytes]:
    """What a Space needs: its card, the app, the package, pinned requirements, and the model's id."""
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
    files = {"README.md": str(card).encode(), "model_id.txt": f"{model}\n".encode()}
    for name in SPACE_PACKAGE:
        for path in sorted((root / name).rglob("*")) if (root / name).is_dir() else [root / name]:
            if path.is_file() and "__pycache__" not in path.parts:
                files[path.relative_to(root).as_posix()] = path
    return files


def _pinned(root: Path, package: str) -> str:
    """The lowest tested version: `gradio>=6.31,<6.32` -> 6.31.0."""
    version = re.search(rf"^{package}>=([\d.]+)", (root / "requirements.txt").read_text(), re.MULTILINE)[1]
    return version + ".0" * (2 - version.count("."))


def _upload(hub: HfApi, repo_id: str, kind: str, files: dict[str, Path | bytes], private: bool, message: str) -> str:
    """One commit that makes the repository hold these files and, of what an earlier push left, no others."""
    url = hub.create_repo(
        repo_id, repo_type=kind, private=private, exist_ok=True, space_sdk="gradio" if kind == "space" else None
    )
    before = set(hub.list_repo_files(repo_id, repo_type=kind)) - {".gitattributes"}
    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    operations += [CommitOperationDelete(name) for name in sorted(before - set(files))]
    hub.create_commit(repo_id, operations, commit_message=message, repo_type=kind)
    logger.info("%s: %d files", url, len(files))
    return str(url)


def _films_are_public(run: Path) -> bool:
    """Whether the run's films are those of the Kermany set, which anyone may show (CC BY 4.0)."""
    config = run / "config.json"
    training = json.loads(config.read_text()).get("training_data") if config.exists() else None
    return isinstance(training, dict) and training.get("kermany") is True


def _patients(run: Path) -> set[str]:
    """The patient ids and film names of a run's predictions."""
    found = set()
    for path in run.glob("report/predictions_*.csv"):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                found |= {row["patient_id"], Path(row["path"]).name, Path(row["path"]).stem}
    return {name for name in found if name and len(name) >= 4}


def _why(repo_id: str, error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, HFValidationError):
        return f"{repo_id} is no name for a repository: OWNER/NAME"
    if status == 401:
        return f"{repo_id}: the Hub does not know the token: log in with `hf auth login`, or set HF_TOKEN"
    if status == 403:
        return f"{repo_id}: the token may not write there: is the owner right, and is it a write token?"
    if status is not None:
        return f"{repo_id}: the Hub refuses ({status}): {str(error).splitlines()[0]}"
    return f"{repo_id}: the Hub cannot be reached ({type(error).__name__}): is there a network?"
