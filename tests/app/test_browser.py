"""The web demo in a real Chromium: each tab's main path, on a laptop and on a phone."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import make_film
from tests.imaging.test_dicom import dicom

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
PATIENCE = 30_000  # milliseconds
LEAST_CONTRAST = 4.5  # of text to its ground (WCAG 2.2, level AA)
CONTRAST = """
element => {
  const light = colour => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const clear = colour => /rgba\\(.*, 0\\)/.test(colour);
  let ground = element;
  while (ground.parentElement && clear(getComputedStyle(ground).backgroundColor)) ground = ground.parentElement;
  const [a, b] = [getComputedStyle(element).color, getComputedStyle(ground).backgroundColor].map(light);
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}
"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, url: str) -> Iterator:
    """A page at the app, that asks nobody else for anything."""
    page, outside = browser.new_page(viewport={"width": 1280, "height": 900}), []
    page.on("request", lambda request: outside.append(request.url))
    page.goto(url)
    yield page
    page.close()
    assert all(address.startswith((url, "data:", "blob:")) for address in outside)


def test_an_example_is_read_and_its_threshold_moved(page) -> None:
    from playwright.sync_api import expect

    expect(page.locator("#disclaimer")).to_contain_text("not a diagnosis")
    page.get_by_text("pneumonia_1.jpeg").click()
    verdict = page.locator("#verdict")
    expect(verdict).to_contain_text("Probability of pneumonia", timeout=PATIENCE)
    expect(page.locator("#film img")).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#facts")).to_contain_text("JPEG, 8 bits, 224 x 224 pixels")
    first = verdict.inner_text()
    assert re.search(r"Decision threshold: [\d.]+%", first)
    bar, mark = (page.locator(f"#verdict .{name}").bounding_box() for name in ("bar", "threshold"))
    assert bar["height"] > 10
    assert mark["height"] > bar["height"]

    number = page.locator("#reader-threshold input[type=number]")
    for threshold, measured in (("0", "specificity 0.000"), ("1", "sensitivity 0.000")):
        number.fill(threshold)
        page.keyboard.press("Tab")
        expect(verdict).to_contain_text(f"Decision threshold: {100 * float(threshold):.1f}%", timeout=PATIENCE)
        expect(page.locator("#measured")).to_contain_text(measured)
    expect(page.locator("#operating-point input")).to_have_value("by the slider")

    plain = page.locator("#film img").get_attribute("src")
    page.locator("#opacity input[type=range]").focus()
    for _ in range(9):
        page.keyboard.press("ArrowRight")
    expect(page.locator("#film img")).not_to_have_attribute("src", plain, timeout=PATIENCE)
    page.locator("#make-report").click()
    expect(page.locator("#case-report")).to_contain_text("case_report", timeout=PATIENCE)
    page.get_by_text("normal_1.jpeg").click()
    expect(verdict).not_to_have_text(first, timeout=PATIENCE)


def test_a_dicom_and_a_bad_file(page, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    stored = make_film(3, pneumonia=True, size=(300, 260)).astype(np.uint16) * 16
    (tmp_path / "film.dcm").write_bytes(dicom(stored, bits=12, PatientName="Doe^Jane", PatientAge="004Y"))
    (tmp_path / "page.png").write_text("<html>no film</html>")
    file = page.locator("#film-file input[type=file]")
    file.set_input_files(tmp_path / "film.dcm")
    expect(page.locator("#facts")).to_contain_text("DICOM, 12 bits, 260 x 300 pixels", timeout=PATIENCE)
    expect(page.locator("#facts")).to_contain_text("age in years")
    assert "Jane" not in page.content()
    page.locator("#film-file").get_by_label(re.compile("[Cc]lear|[Rr]emove")).first.click()
    expect(page.locator("#verdict")).to_contain_text("Drop a film", timeout=PATIENCE)
    file.set_input_files(tmp_path / "page.png")
    expect(page.locator("#verdict")).to_contain_text("Not read: an HTML page", timeout=PATIENCE)


def test_the_worklist_and_the_model(page, films_folder: Path) -> None:
    from playwright.sync_api import expect

    page.get_by_role("tab", name="The model").click()
    expect(page.locator("#outcome")).to_contain_text("sensitivity", timeout=PATIENCE)
    before = page.locator("#outcome").inner_text()
    page.locator("#threshold input[type=number]").fill("0.999")
    page.keyboard.press("Tab")
    expect(page.locator("#outcome")).not_to_have_text(before, timeout=PATIENCE)
    page.get_by_role("tab", name="Worklist").click()
    films = sorted((films_folder / "test" / "NORMAL").iterdir())[:3]
    page.locator("#worklist-files input[type=file]").set_input_files(films)
    page.locator("#worklist-read").click()
    expect(page.locator("#worklist")).to_contain_text("NORMAL", timeout=PATIENCE)


def test_by_keyboard_on_a_phone_and_to_weak_eyes(page) -> None:
    from playwright.sync_api import expect

    page.get_by_role("tab", name="Read a film").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("tab", name="Worklist")).to_have_attribute("aria-selected", "true")
    page.get_by_role("tab", name="Read a film").click()
    page.set_viewport_size({"width": 390, "height": 844})
    page.get_by_text("pneumonia_1.jpeg").click()
    expect(page.locator("#verdict")).to_contain_text("Probability of pneumonia", timeout=PATIENCE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 391
    for part in (
        "#disclaimer .notice, #disclaimer",
        "#verdict .decision",
        "#verdict p",
        "#measured p",
        "#facts td",
        "#film label",
    ):
        assert page.locator(part).first.evaluate(CONTRAST) >= LEAST_CONTRAST, part
