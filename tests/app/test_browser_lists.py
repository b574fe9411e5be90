"""Worklist and model tab in a real Chromium: by mouse and by keyboard, on a laptop and on a phone."""

import csv
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.app.browser import IN_CHROMIUM, LAPTOP, PATIENCE, PHONE, SCHEMES, grave_violations

KINDS = ["review", "abstain", "unreadable", "clear", "not_chest_xray"]

pytestmark = IN_CHROMIUM


@pytest.fixture(scope="module")
def films(films_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zip of films of both labels, one that cannot be read, and a picture in colour."""
    folder = tmp_path_factory.mktemp("films")
    colours = np.zeros((120, 120, 3), np.uint8)
    colours[..., 0], colours[40:80, 40:80, 1] = 200, 220
    Image.fromarray(colours).save(folder / "holiday.png")
    with zipfile.ZipFile(folder / "films.zip", "w") as archive:
        for film in sorted((films_folder / "test").rglob("*.jpeg"))[::3]:
            archive.write(film, f"{film.parent.name}/{film.name}")
        archive.writestr("broken.png", "<html>no film</html>")
        archive.write(folder / "holiday.png", "holiday.png")
    return folder / "films.zip"


@pytest.fixture(scope="module")
def page(browser, url: str, films: Path) -> Iterator:
    """The worklist of the films, read once for all tests here."""
    page, outside = browser.new_page(viewport=LAPTOP), []
    page.on("request", lambda request: outside.append(request.url))
    page.goto(url)
    page.get_by_role("tab", name="Worklist").click()
    page.locator("#worklist-files input[type=file]").set_input_files(films)
    page.locator("#worklist-hide input").check()
    page.locator("#worklist-read").click()
    page.locator("#worklist tbody tr").first.wait_for(timeout=PATIENCE)
    assert "%" not in page.locator("#worklist").inner_text()  # hidden from the first
    page.locator("#worklist-hide input").uncheck()
    page.locator("#worklist .chip").first.wait_for(timeout=PATIENCE)
    yield page
    page.close()
    assert all(address.startswith((url, "data:", "blob:")) for address in outside)


@pytest.fixture
def rows(page) -> Iterator:
    """The list as it was when it had been read."""
    page.set_viewport_size(LAPTOP)
    page.locator("#worklist-hide input").uncheck()  # if a test failed before it did
    page.locator("#worklist .chip").first.wait_for(state="attached", timeout=PATIENCE)
    page.locator("#worklist input").fill("")
    page.locator("#worklist .kinds button").first.click()
    page.locator("#worklist th button").first.click()
    return page.locator("#worklist tbody tr:visible")


def values(rows, name: str) -> list[str]:
    return rows.evaluate_all("(rows, name) => rows.map(row => row.dataset[name])", name)


def test_it_is_in_reading_order_and_is_filtered_and_sorted(page, rows, films: Path) -> None:
    kinds, scores = values(rows, "kind"), [float(score) for score in values(rows, "score")]
    assert kinds == sorted(kinds, key=KINDS.index) and {"review", "unreadable", "clear", "not_chest_xray"} <= set(
        kinds
    )
    reviewed = [score for kind, score in zip(kinds, scores, strict=True) if kind == "review"]
    assert reviewed == sorted(reviewed, reverse=True)
    colours = {
        kind: page.locator(f"#worklist .chip.{kind}").first.evaluate("chip => getComputedStyle(chip).backgroundColor")
        for kind in set(kinds)
    }
    assert len(set(colours.values())) == len(colours)
    page.locator("#worklist .kinds").get_by_role("button", name="Not read").click()
    assert values(rows, "name") == ["broken.png"] and "HTML" in rows.inner_text()
    page.locator("#worklist .kinds").get_by_role("button", name="All").click()
    page.get_by_label("Filter by name").fill("normal/")
    assert (names := values(rows, "name")) and all(name.startswith("NORMAL/") for name in names)
    page.get_by_label("Filter by name").fill("")
    for name, order in (("Probability", True), ("Probability", False)):
        page.locator("#worklist th").get_by_role("button", name=name).click()
        scores = [float(score) for score in values(rows, "score")]
        assert scores == sorted(scores, reverse=order)
    page.locator("#worklist th").get_by_role("button", name="Film").click()
    names = values(rows, "name")
    assert [name.split("/")[0] for name in names] == sorted((name.split("/")[0] for name in names), key=str.lower)


def test_a_row_opens_its_film_by_mouse(page, rows) -> None:
    from playwright.sync_api import expect

    rows.first.locator("td").nth(1).click()  # not on the name alone
    expect(page.locator("#worklist-verdict")).to_contain_text("Probability", timeout=PATIENCE)
    expect(page.locator("#worklist-film img")).to_be_visible(timeout=PATIENCE)
    assert page.locator("#worklist-film img").bounding_box()["width"] > 400
    page.locator("#worklist .kinds").get_by_role("button", name="Not recognised").click()
    rows.first.click()
    expect(page.locator("#worklist-verdict")).to_contain_text("Not recognised as a chest film", timeout=PATIENCE)
    expect(page.locator("#worklist-verdict")).not_to_contain_text("%")
    assert "%" not in rows.first.inner_text()


def test_a_film_of_the_list_has_its_heatmap_and_the_next_one_its_own(page, rows) -> None:
    from playwright.sync_api import expect

    heat = "getComputedStyle(document.querySelector('#worklist-film .heat')).backgroundImage"
    verdict, names = page.locator("#worklist-verdict"), values(rows, "name")
    rows.nth(0).click()
    expect(verdict).to_contain_text(names[0], timeout=PATIENCE)
    page.locator("#worklist-heat-on input").check(timeout=PATIENCE)
    said = re.compile("Grad-CAM|no heatmap")
    for place in (1, 2, 0):  # each is opened before the map of the last one can be there
        rows.nth(place).click()
    expect(verdict).to_contain_text(names[0], timeout=PATIENCE)
    expect(page.locator("#worklist-heat")).to_contain_text(said, timeout=PATIENCE)
    page.wait_for_function("!document.querySelector('#worklist-opened .pending')", timeout=PATIENCE)
    first = page.evaluate(heat)
    rows.nth(1).click()
    expect(verdict).to_contain_text(names[1], timeout=PATIENCE)
    page.wait_for_function("!document.querySelector('#worklist-opened .pending')", timeout=PATIENCE)
    expect(page.locator("#worklist-heat")).to_contain_text(said, timeout=PATIENCE)
    assert page.evaluate(heat) != first or first == "none"
    page.locator("#worklist-heat-on input").uncheck()
    expect(page.locator("#worklist-heat")).not_to_contain_text(said, timeout=PATIENCE)
    assert page.evaluate(heat) == "none"


def test_answers_are_hidden_until_they_are_asked_for(page, rows) -> None:
    from playwright.sync_api import expect

    hide, verdict = page.locator("#worklist-hide input"), page.locator("#worklist-verdict")
    hide.check()
    expect(page.locator("#worklist > * p").first).to_contain_text("answers are hidden", timeout=PATIENCE)
    assert "%" not in page.locator("#worklist").inner_text()
    name = next(name for name in values(rows, "name") if name.startswith("NORMAL/"))
    rows.filter(has_text=name).click()
    expect(verdict).to_contain_text(name, timeout=PATIENCE)
    expect(page.locator("#worklist-film img")).to_be_visible(timeout=PATIENCE)
    answer, make = verdict.locator("summary"), page.locator("#worklist-make-report")
    expect(verdict.locator(".decision")).to_be_hidden()
    expect(make).to_be_hidden()  # it would give the answer away
    answer.click()
    expect(verdict.locator(".decision")).to_be_visible()
    expect(page.locator("#worklist-csv")).to_be_hidden()  # it has all answers
    with page.expect_download(timeout=PATIENCE) as download:
        make.click()
    assert download.value.suggested_filename.startswith("case_report_")
    assert verdict.locator(".decision strong").inner_text() in Path(download.value.path()).read_text()
    hide.uncheck()
    expect(page.locator("#worklist .chip").first).to_be_visible(timeout=PATIENCE)


def test_the_open_film_stays_open_at_another_point(page, rows) -> None:
    from playwright.sync_api import expect

    rows.nth(1).click()
    verdict, film = page.locator("#worklist-verdict"), page.locator("#worklist-film img")
    name = values(rows, "name")[1]
    expect(verdict).to_contain_text(name, timeout=PATIENCE)
    expect(film).to_be_visible(timeout=PATIENCE)
    page.get_by_label("Filter by name").fill("l/")  # of the folder NORMAL
    page.locator("#worklist th").get_by_role("button", name="Film").click()
    page.locator("#worklist th").get_by_role("button", name="Film").click()
    names = values(rows, "name")
    shown, said = film.get_attribute("src"), page.locator("#worklist > * p").first.inner_text()
    other = page.locator("#worklist-point label:not(:has(input:checked))")
    if not other.count():
        pytest.skip("this tiny model has a single operating point")
    other.first.click()
    expect(page.locator("#worklist > * p").first).not_to_have_text(said, timeout=PATIENCE)
    page.wait_for_function(
        "!document.querySelector('#worklist-verdict .pending, #worklist .pending')", timeout=PATIENCE
    )
    expect(verdict).to_contain_text(name)
    assert film.get_attribute("src") == shown
    current = page.locator('#worklist tr[aria-current="true"]')
    expect(current).to_have_count(1)
    assert current.get_attribute("data-name") == name
    assert values(rows, "name") == names  # filter and order stay too
    assert page.locator("#worklist th").last.get_attribute("aria-sort") == "descending"
    page.get_by_label("Filter by name").fill("")
    expect(page.locator("#worklist .steps")).to_contain_text(re.compile(r"\d+ of \d+"))


def test_a_row_opens_its_film_by_keyboard_and_the_next_one_too(page, rows) -> None:
    from playwright.sync_api import expect

    rows.nth(0).locator("td").first.click()  # from there the arrow keys work too
    expect(rows.nth(0).get_by_role("button")).to_be_focused()
    page.keyboard.press("Enter")
    film, verdict = page.locator("#worklist-film img"), page.locator("#worklist-verdict")
    expect(verdict).to_contain_text(values(rows, "name")[0], timeout=PATIENCE)
    expect(rows.nth(0)).to_have_attribute("aria-current", "true")
    before = film.get_attribute("src")
    page.keyboard.press("ArrowDown")
    expect(rows.nth(1).get_by_role("button")).to_be_focused()
    expect(rows.nth(1)).to_have_attribute("aria-current", "true")
    expect(film).not_to_have_attribute("src", before, timeout=PATIENCE)
    expect(page.locator("#worklist .steps")).to_contain_text("2 of")
    page.locator("#worklist .steps").get_by_role("button", name="Previous").press("Enter")
    expect(rows.nth(0)).to_have_attribute("aria-current", "true")


def test_the_table_and_the_page_to_print_say_the_same(page, rows, browser, tmp_path: Path) -> None:
    kinds = values(rows, "kind")
    for name in ("csv", "page"):
        with page.expect_download() as download:
            page.locator(f"#worklist-{name}").click()
        download.value.save_as(tmp_path / name)
    with (tmp_path / "csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["flag"] for row in table] == [{"clear": "", "unreadable": ""}.get(kind, kind) for kind in kinds]
    empty = [row for row in table if row["flag"] == "not_chest_xray"]
    assert empty and not any(row["probability"] or row["prediction"] for row in empty)
    (tmp_path / "page.html").write_bytes((tmp_path / "page").read_bytes())
    printed = browser.new_page()
    printed.goto((tmp_path / "page.html").as_uri())
    text = printed.inner_text("body")
    assert "not a diagnosis" in text and "Not read\n1\n" in text and printed.locator("tr").count() == len(kinds) + 1
    flagged = sum(kind in ("review", "abstain", "not_chest_xray") for kind in kinds)
    assert printed.locator("figure img").count() == flagged
    assert printed.pdf()[:4] == b"%PDF"
    printed.close()


def test_on_a_phone_nothing_scrolls_sideways_and_the_film_comes_into_view(page, rows) -> None:
    from playwright.sync_api import expect

    page.set_viewport_size(PHONE)
    rows.nth(2).click()
    expect(page.locator("#worklist-film img")).to_be_in_viewport(timeout=PATIENCE)
    expect(page.locator("#worklist .steps")).to_be_in_viewport()
    assert page.evaluate("document.documentElement.scrollWidth") <= 391


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_model_at_another_threshold_on_every_screen(browser, url: str, scheme: str) -> None:
    from playwright.sync_api import expect

    page = browser.new_page(viewport=LAPTOP)
    page.goto(f"{url}/?__theme={scheme}")
    page.get_by_role("tab", name="The model").click()
    expect(page.locator("#outcome")).to_contain_text("sensitivity", timeout=PATIENCE)
    mark, before = page.locator("#outcome .cut"), page.locator("#outcome .cut").get_attribute("points")
    page.locator("#threshold input[type=number]").fill("0.999")
    page.keyboard.press("Tab")
    expect(mark).not_to_have_attribute("points", before, timeout=PATIENCE)
    for screen in (LAPTOP, PHONE):
        page.set_viewport_size(screen)
        assert page.evaluate("document.documentElement.scrollWidth") <= screen["width"]
        assert not grave_violations(page)
    page.close()


@pytest.mark.parametrize("screen", [LAPTOP, PHONE], ids=["laptop", "phone"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_worklist_keeps_nobody_out(page, rows, scheme: str, screen: dict) -> None:
    page.set_viewport_size(screen)
    page.evaluate("scheme => document.body.classList.toggle('dark', scheme === 'dark')", scheme)
    with page.expect_response("**/queue/join*"):  # of an earlier visit the film stands there already
        rows.first.click()
    page.locator("#worklist-film img").wait_for(timeout=PATIENCE)
    assert not grave_violations(page)
    page.evaluate("document.body.classList.remove('dark')")
