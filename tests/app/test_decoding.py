"""What visitors send is read in processes as it is read here."""

from pathlib import Path

from PIL import Image

from pneumo_hf.app.decoding import decode
from tests.conftest import make_film


def test_a_film_comes_back_as_it_is_read_here(tmp_path: Path) -> None:
    film = Image.fromarray(make_film(0, pneumonia=True))
    film.save(tmp_path / "film.png")
    read, reason, content = decode({"bytes": None, "path": str(tmp_path / "film.png")})
    assert read is not None and read.tobytes() == film.tobytes() and not reason and not content
    assert decode({"bytes": b"nothing", "path": None}).reason.startswith("not a picture")
    assert decode({"bytes": None, "path": str(tmp_path / "gone.png")}).reason == "No such file or directory"
