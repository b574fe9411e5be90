"""The page that reads a film, in a real Chromium: on a laptop, on a phone, by keyboard, light and dark."""

import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.app.browser import IN_CHROMIUM, LAPTOP, PATIENCE, PHONE, SCHEMES, SETTLED, grave_violations
from tests.conftest import make_film
from tests.imaging.test_dicom import dicom

WINDOW = (
    "[...document.querySelectorAll('feFuncR')].map(f => [f.getAttribute('slope'), f.getAttribute('intercept')])[0]"
)
MOST_TABS = 60  # presses of the key until a part of the page has the focus

pytestmark = IN_CHROMIUM


@pytest.fixture
def phone(browser, url: str) -> Iterator:
    page = browser.new_page(viewport=PHONE, has_touch=True)
    page.goto(url)
    yield page
    page.close()


def read_example(page, name: str) -> None:
    from playwright.sync_api import expect

    page.evaluate("document.querySelector('#verdict .decision')?.classList.add('waiting')")  # of an earlier film
    page.get_by_role("button", name=name).click()
    expect(page.locator("#film-file")).to_contain_text(name.lower(), timeout=PATIENCE)
    expect(page.locator("#verdict .decision:not(.waiting)")).to_be_visible(timeout=PATIENCE)
    expect(page.locator(".stage img")).to_be_visible(timeout=PATIENCE)


def write_dicom(folder: Path) -> Path:
    stored = make_film(3, pneumonia=True, size=(300, 260)).astype(np.uint16) * 12 + 300
    window = {"WindowCenter": "1830", "WindowWidth": "3060"}
    path = folder / "film.dcm"
    path.write_bytes(dicom(stored, bits=12, PatientName="Doe^Jane", PatientAge="004Y", **window))
    return path


def open_threshold(page):
    """Open the box of a threshold set by hand; what is filled in while answers still come, gradio takes back."""
    page.get_by_role("button", name="Another threshold").click()
    page.wait_for_function(SETTLED)
    return page.locator("#by-percent input[type=number]")


def window_of(page) -> tuple[float, float]:
    """Slope and intercept that grey levels of 0 to 1 are shown by."""
    slope, intercept = page.evaluate(WINDOW)
    return float(slope), float(intercept)


def test_an_example_is_read_and_its_threshold_moved(page) -> None:
    from playwright.sync_api import expect

    expect(page.locator("#disclaimer")).to_contain_text("not a diagnosis")
    expect(page.locator("#disclaimer")).to_contain_text("does not say who the patients were")
    read_example(page, "Pneumonia")
    verdict = page.locator("#verdict")
    expect(page.locator("#facts")).to_contain_text("JPEG, 8 bits, 224 x 224 pixels")
    first = verdict.inner_text()
    assert re.search(r"flagged from [\d.]+%", first)
    track, bar, mark = (
        page.locator(f"#verdict {part}").bounding_box() for part in (".track", ".bar", ".track .threshold")
    )
    assert 10 < bar["height"] < mark["height"]
    threshold = float(re.search(r"flagged from ([\d.]+)%", first)[1]) / 100
    assert mark["x"] + mark["width"] / 2 == pytest.approx(track["x"] + threshold * track["width"], abs=2)

    number = open_threshold(page)
    for threshold, measured in (("0", r"Specificity\s*0.0%"), ("100", r"Sensitivity\s*0.0%")):
        number.fill(threshold)
        page.keyboard.press("Tab")
        expect(verdict).to_contain_text(re.compile(rf"flagged from {threshold}\.0+%"), timeout=PATIENCE)
        expect(page.locator("#measured")).to_contain_text(re.compile(measured))
    assert page.locator("#operating-point input:checked").count() == 0
    number.fill("")  # no error: it shows 0 then, and that is the threshold
    page.keyboard.press("Tab")
    expect(verdict).to_contain_text("flagged from 0.0%", timeout=PATIENCE)
    assert page.locator(".toast-body").count() == 0
    page.locator("#operating-point label").first.click()
    expect(verdict).not_to_contain_text("flagged from 0.0%", timeout=PATIENCE)

    read_example(page, "Normal")
    expect(verdict).not_to_have_text(first, timeout=PATIENCE)


def test_the_answer_stays_hidden_until_it_is_opened(page) -> None:
    from playwright.sync_api import expect

    read_example(page, "Pneumonia")
    decision = page.locator("#verdict .decision")
    expect(decision).to_be_visible()
    page.locator("#read-first input").check()
    expect(decision).to_be_hidden(timeout=PATIENCE)
    kept_back = [page.locator(part) for part in ("#make-report", "#heat-on")]  # which would give it away
    assert not any(part.is_visible() for part in kept_back)
    page.locator("#verdict summary").press("Enter")
    expect(decision).to_be_visible()
    assert all(part.is_visible() for part in kept_back)
    open_threshold(page).fill("12")
    expect(page.locator("#verdict .legend")).to_contain_text("flagged from 12.0%", timeout=PATIENCE)
    expect(decision).to_be_visible()  # once opened it stays open
    page.locator("#read-first input").uncheck()
    expect(decision).to_be_visible(timeout=PATIENCE)


def test_the_verdict_of_an_earlier_film_never_stands_beside_a_film(page) -> None:
    from playwright.sync_api import expect

    read_example(page, "Pneumonia")
    score, film = page.locator("#verdict .probability b"), page.locator(".stage img")
    old = [film.get_attribute("src"), score.inner_text()]
    page.evaluate(
        """() => {
            window.seen = [];
            const text = (part) => document.querySelector(part)?.textContent ?? null;
            const film = () => document.querySelector(".stage img")?.src ?? null;
            const look = () => seen.push([film(), text("#verdict .probability b")]);
            new MutationObserver(look).observe(document.body, { childList: true, subtree: true, characterData: true });
        }"""
    )
    page.get_by_role("button", name="Normal").click()
    expect(film).not_to_have_attribute("src", old[0], timeout=PATIENCE)
    expect(page.locator("#verdict .decision:not(.waiting)")).to_be_visible(timeout=PATIENCE)
    seen = page.evaluate("seen")
    assert [None, None] in seen and not [pair for pair in seen if pair[0] not in (None, old[0]) and pair[1] == old[1]]


def test_a_film_that_is_chosen_while_another_is_read_is_read(page) -> None:
    from playwright.sync_api import expect

    read_example(page, "Normal")
    film = page.locator(".stage img")
    normal = film.get_attribute("src")
    for name in ("Pneumonia", "Normal", "Pneumonia", "Normal"):
        page.get_by_role("button", name=name).click()
    expect(page.locator("#film-file")).to_contain_text("normal", timeout=PATIENCE)
    page.wait_for_timeout(1000)
    expect(film).to_have_attribute("src", normal, timeout=PATIENCE)
    expect(page.locator("#verdict .decision:not(.waiting)")).to_be_visible(timeout=PATIENCE)


def test_window_zoom_and_invert_ask_the_server_nothing(page, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    read_example(page, "Pneumonia")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    assert window_of(page) == (1, 0)
    page.get_by_label("Width").fill("51")
    page.get_by_label("Level").fill("102")
    assert window_of(page) == pytest.approx((5, -1.5))  # (v - 0.4) / 0.2 + 0.5
    expect(page.locator(".reading")).to_have_text("level 103, width 52 grey levels")
    page.get_by_role("button", name="Invert").click()
    assert window_of(page) == pytest.approx((-5, 2.5))
    page.get_by_role("button", name="Reset").click()
    stage, box = page.locator(".stage"), page.locator(".stage").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.wheel(0, 400)
    expect(page.locator(".zoom")).to_have_text("100%")  # the film was not chosen: the page scrolls
    page.wait_for_function("scrollY > 0")
    page.wait_for_timeout(300)  # it scrolls smoothly
    page.evaluate("scrollTo(0, 0)")
    stage.click()
    page.mouse.wheel(0, -400)
    expect(page.locator(".zoom")).to_have_text("272%")
    before = page.locator(".layers").bounding_box()
    page.mouse.down()
    page.mouse.move(middle[0] + 40, middle[1] + 30, steps=4)
    page.mouse.up()
    after = page.locator(".layers").bounding_box()
    assert (after["x"] - before["x"], after["y"] - before["y"]) == pytest.approx((40, 30), abs=1)
    assert window_of(page) == (1, 0)
    page.keyboard.press("0")
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] - 60, middle[1] - 20, steps=4)
    page.mouse.up()
    expect(page.locator(".reading")).to_have_text("level 118, width 226 grey levels")
    assert asked == []


def test_what_is_drawn_is_the_film_through_its_window(page) -> None:
    read_example(page, "Pneumonia")

    def drawn() -> np.ndarray:
        picture = Image.open(io.BytesIO(page.locator(".layers").screenshot()))
        return np.asarray(picture.convert("L"), dtype=float)[4:-4, 4:-4]

    film = drawn()
    page.get_by_label("Width").fill("102")
    page.get_by_label("Level").fill("153")
    windowed = drawn()
    page.get_by_role("button", name="Invert").click()
    inverted = drawn()
    assert film.std() > 20
    np.testing.assert_allclose(windowed, (255 * ((film - 153) / 102 + 0.5)).clip(0, 255), atol=3)
    np.testing.assert_allclose(inverted, 255 - windowed, atol=1)


def test_a_dicom_and_a_bad_file(page, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    (tmp_path / "page.png").write_text("<html>no film</html>")
    file = page.locator("#film-file input[type=file]")
    file.set_input_files(write_dicom(tmp_path))
    expect(page.locator("#facts")).to_contain_text("DICOM, 12 bits, 260 x 300 pixels", timeout=PATIENCE)
    expect(page.locator("#facts")).to_contain_text("Age in years")
    expect(page.locator(".reading")).to_have_text("level 1830, width 3060 pixel values")
    assert page.locator(".ruler .ends span").all_inner_texts()[::2] == ["300", "3359"]
    assert "Jane" not in page.content()
    page.locator("#film-file").get_by_label(re.compile("[Cc]lear|[Rr]emove")).first.click()
    expect(page.locator("#verdict")).to_be_hidden(timeout=PATIENCE)
    file.set_input_files(tmp_path / "page.png")
    expect(page.locator("#verdict")).to_contain_text("Not read", timeout=PATIENCE)
    expect(page.locator("#verdict")).to_contain_text("An HTML page, not a picture")
    assert page.locator(".viewer").count() == 0


def test_the_heatmap_lies_over_the_film(page) -> None:
    from playwright.sync_api import expect

    read_example(page, "Pneumonia")
    colours = "getComputedStyle(document.querySelector('.layers .heat')).backgroundImage"
    assert page.evaluate(colours) == "none"
    page.locator("#heat-on input").check()
    expect(page.locator(".heat-scale")).to_contain_text("raised the score", timeout=PATIENCE)
    assert page.evaluate(colours).startswith('url("data:image/png')
    page.get_by_label("Strength").fill("0.3")
    assert page.evaluate("getComputedStyle(document.querySelector('.layers .heat')).opacity") == "0.3"
    as_kind = "kind => { document.querySelector('#verdict .decision').className = `decision ${kind}`; }"
    page.evaluate(as_kind, "abstain")  # at this threshold there may be an answer
    expect(page.locator("#heat")).to_contain_text("no answer: it is left out", use_inner_text=True)
    assert page.evaluate(colours) == "none" and page.locator(".heat-scale").is_hidden()
    page.evaluate(as_kind, "flag")
    assert page.evaluate(colours) != "none" and page.locator(".left-out").is_hidden()
    read_example(page, "Normal")
    expect(page.locator(".heat-scale")).to_have_count(0, timeout=PATIENCE)  # before the heatmap, the film
    assert page.evaluate(colours) == "none"


def tab_to(page, part: str) -> None:
    """Press Tab until a part of the page has the focus."""
    for _ in range(MOST_TABS):
        page.keyboard.press("Tab")
        if page.evaluate("part => document.activeElement.matches(part)", part):
            return
    raise AssertionError(f"no way to {part} by Tab")


def test_by_keyboard_alone(page) -> None:
    from playwright.sync_api import expect

    page.get_by_role("tab", name="Read a film").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("tab", name="Worklist")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("tab", name="Read a film")).to_have_attribute("aria-selected", "true")
    tab_to(page, "#film-file .upload-container")
    tab_to(page, "#examples button")
    page.keyboard.press("Enter")
    expect(page.locator("#verdict .decision")).to_be_visible(timeout=PATIENCE)
    page.get_by_role("tab", name="Read a film").focus()
    tab_to(page, "#heat-on input")
    page.keyboard.press("Space")
    expect(page.locator("#heat")).to_contain_text(re.compile("Grad-CAM|no heatmap"), timeout=PATIENCE)
    tab_to(page, ".stage")
    for key in ("+", "ArrowRight", "i"):
        page.keyboard.press(key)
    expect(page.locator(".zoom")).to_have_text("150%")
    assert page.locator(".layers").evaluate("e => new DOMMatrix(getComputedStyle(e).transform).e") < 0
    assert window_of(page) == (-1, 1)
    page.keyboard.press("0")
    page.keyboard.press("ArrowUp")
    expect(page.locator(".reading")).to_have_text("level 120, width 256 grey levels")
    tab_to(page, "[data-view=width]")
    page.keyboard.press("Home")
    expect(page.locator(".reading")).to_have_text("level 120, width 3 grey levels")
    tab_to(page, "#make-report")
    with page.expect_download(timeout=PATIENCE):
        page.keyboard.press("Enter")
    tab_to(page, "#operating-point input")
    page.keyboard.press("ArrowUp")


def test_film_and_decision_fit_the_first_screen_of_a_phone(phone) -> None:
    read_example(phone, "Pneumonia")
    assert phone.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    decision, film = (phone.locator(part).bounding_box() for part in ("#verdict .decision", ".stage"))
    assert decision["y"] > 0
    assert film["y"] + film["height"] <= PHONE["height"]
    assert film["height"] >= 300
    before = phone.evaluate("scrollY")
    phone.mouse.move(195, film["y"] + 100)
    phone.mouse.wheel(0, 200)
    phone.wait_for_function(f"scrollY > {before}")  # nobody is caught on the film


def download_report(page, folder: Path) -> Path:
    """Make the report of the film on the page: its file."""
    with page.expect_download(timeout=PATIENCE) as download:
        page.locator("#make-report").click()
    assert re.fullmatch(r"case_report_[-\d]{10}_\d{6}\.html", download.value.suggested_filename)
    download.value.save_as(folder / "report.html")
    return folder / "report.html"


def test_the_report_prints_on_one_page_with_the_patient_typed_on_it(page, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    page.locator("#film-file input[type=file]").set_input_files(write_dicom(tmp_path))
    expect(page.locator("#facts")).to_contain_text("DICOM", timeout=PATIENCE)
    report = download_report(page, tmp_path)
    page.goto(report.as_uri())
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_label("Patient").fill("Doe 1234")
    page.keyboard.press("Enter")
    assert page.get_by_label("Patient").input_value() == "Doe 1234"
    assert len(re.findall(rb"/Type\s*/Page\b", page.pdf(prefer_css_page_size=True))) == 1
    assert asked == [] and "Doe 1234" not in page.content()
    page.reload()
    assert page.get_by_label("Patient").input_value() == ""
    page.goto("about:blank")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_nobody_is_kept_out(browser, url: str, tmp_path: Path, scheme: str) -> None:
    from playwright.sync_api import expect

    page = browser.new_page(viewport=LAPTOP, color_scheme=scheme)
    page.goto(url)
    page.get_by_role("button", name="Pneumonia").wait_for(timeout=PATIENCE)
    found = {"empty": grave_violations(page)}
    for name in ("Worklist", "Recalibrate", "The model"):
        page.get_by_role("tab", name=name).click()
        found[name] = grave_violations(page)
    page.get_by_role("tab", name="Read a film").click()
    read_example(page, "Pneumonia")
    page.locator("#heat-on input").check()
    expect(page.locator("#heat")).to_contain_text("Grad-CAM", timeout=PATIENCE)
    page.get_by_role("button", name="Another threshold").click()
    report = download_report(page, tmp_path)
    found["with a film"] = grave_violations(page)
    page.goto(report.as_uri())
    expect(page.get_by_label("Patient")).to_be_editable()
    found["case report"] = grave_violations(page)
    page.close()
    assert {name: violations for name, violations in found.items() if violations} == {}
