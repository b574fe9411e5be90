"""`export`: the ONNX file gives the checkpoint's scores, flags and all, at any batch size, or is not kept."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pneumo_hf import Predictor
from pneumo_hf.__main__ import main
from pneumo_hf.errors import InputError
from pneumo_hf.hub import export as export_module
from pneumo_hf.hub.scan import what_must_not_leave
from pneumo_hf.inference import onnx_export

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def options(films_folder: Path, cache_dir: Path) -> list[str]:
    return ["--data", str(films_folder), "--cache_dir", str(cache_dir)]


def test_the_onnx_backend_answers_as_the_checkpoint_does(
    tiny_run: Path, films_folder: Path, options: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    main(["export", "--model", str(tiny_run), "--output_dir", str(tmp_path), *options])
    assert "probabilities differ by at most" in caplog.text
    films = sorted((films_folder / "test").rglob("*.jpeg"))[:7]
    plain = Predictor(tmp_path, backend="onnx")
    size = plain.image_processor.size
    pixels = torch.randint(0, 256, (2, 1, size["height"], size["width"]), dtype=torch.uint8)
    assert (plain.logits(pixels) == plain.predict_with_outliers(pixels)[0]).all()
    assert plain.onnx(pixels.numpy(), with_features=False)[1] is None
    for flip in (False, True):
        expected = Predictor(tiny_run, device="cpu", flip=flip)(films)
        for batch_size in (1, 3, 32):
            exported = Predictor(tmp_path, backend="onnx", batch_size=batch_size, flip=flip)
            exported.model = None  # of no use there
            for ours, theirs in zip(expected, exported(films), strict=True):
                assert theirs["probability"] == pytest.approx(ours["probability"], abs=1e-5)
                assert (theirs["flag"], theirs["prediction"]) == (ours["flag"], ours["prediction"])


def test_an_export_says_nothing_of_the_machine_that_wrote_it(
    tiny_run: Path, options: list[str], tmp_path: Path
) -> None:
    import onnx

    main(["export", "--model", str(tiny_run), "--output_dir", str(tmp_path), *options])
    model = onnx.load(tmp_path / "onnx" / "model.onnx")
    parts = [model.graph, *model.graph.node, *model.functions]
    assert not [part for part in parts if part.doc_string or part.metadata_props]
    assert b"stack_trace" not in model.SerializeToString() and str(ROOT).encode() not in model.SerializeToString()
    assert what_must_not_leave(tiny_run, {"onnx/model.onnx": tmp_path / "onnx" / "model.onnx"}) == []


def test_what_does_not_agree_is_not_kept(
    tiny_run: Path, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    forward = onnx_export._Network.forward

    def changed(network: nn.Module, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, features = forward(network, pixel_values)
        return logits + torch.tensor([0.0, 0.05]), features

    monkeypatch.setattr(onnx_export._Network, "forward", changed)
    with pytest.raises(SystemExit, match="2"):
        main(["export", "--model", str(tiny_run), "--output_dir", str(tmp_path), *options])
    assert "not kept" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_what_the_exporter_left_unfinished_is_gone_and_the_earlier_export_stays(
    tiny_run: Path, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(model: nn.Module, image_processor: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"of yesterday")
    monkeypatch.setattr(export_module, "write_onnx", fails)
    with pytest.raises(OSError, match="no space left"):
        main(["export", "--model", str(tiny_run), "--output_dir", str(tmp_path), *options])
    assert [path.name for path in tmp_path.rglob("*")] == ["onnx", "model.onnx"]
    assert (tmp_path / "onnx" / "model.onnx").read_bytes() == b"of yesterday"


def test_a_checkpoint_without_its_export_gets_one_at_first_use_which_is_kept(
    tiny_run: Path, films_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    films = sorted((films_folder / "test").rglob("*.jpeg"))[:3]
    expected = [row["probability"] for row in Predictor(tiny_run, device="cpu")(films)]
    found = [row["probability"] for row in Predictor(tiny_run, backend="onnx")(films)]
    assert found == pytest.approx(expected, abs=1e-5)
    (kept,) = (tmp_path / ".cache" / "pneumo_hf" / "onnx").glob("*.onnx")
    written = kept.stat().st_mtime_ns
    monkeypatch.setattr(onnx_export, "write_onnx", None)  # not called again
    assert [row["probability"] for row in Predictor(tiny_run, backend="onnx")(films)] == found
    assert kept.stat().st_mtime_ns == written and not (tiny_run / "onnx").exists()


def test_an_export_that_does_not_agree_or_cannot_be_written_is_not_kept(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(onnx_export, "AGREEMENT", -1.0)
    with pytest.raises(InputError, match="not kept"):
        Predictor(tiny_run, backend="onnx")
    folder = tmp_path / ".cache" / "pneumo_hf" / "onnx"
    assert not list(folder.rglob("*.onnx"))
    shutil.rmtree(folder)
    folder.write_text("no folder")
    with pytest.raises(InputError, match="cannot be kept in .*onnx: File exists"):
        Predictor(tiny_run, backend="onnx")


def test_an_export_of_other_weights_is_not_read(tiny_run: Path, options: list[str], tmp_path: Path) -> None:
    main(["export", "--model", str(tiny_run), "--output_dir", str(tmp_path), *options])
    weights = load_file(tmp_path / "model.safetensors")
    weights["classifier.1.bias"] = weights["classifier.1.bias"] + 1
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="of other weights"):
        Predictor(tmp_path, backend="onnx")
