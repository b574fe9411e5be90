"""The pictures of the docs, from the real pages.

    python docs/take_screenshot.py http://127.0.0.1:7860 PAGE.html [STUDY]

STUDY is the address of the study of docs/pacs.md in Orthanc's explorer, /app/explorer.html#study?uuid=...
"""

import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

DOCS = Path(__file__).parent
PATIENCE = 30_000  # milliseconds
LARGEST = 300_000  # bytes
LAPTOP, PHONE, PAPER = {"width": 1280, "height": 900}, {"width": 390, "height": 844}, {"width": 900, "height": 1080}


def read_an_example(page: Page) -> None:
    page.goto(sys.argv[1])
    page.get_by_role("button", name="Pneumonia").click()
    expect(page.locator("#verdict .decision")).to_be_visible(timeout=PATIENCE)
    expect(page.locator(".stage img")).to_be_visible(timeout=PATIENCE)
    page.mouse.move(0, 0)
    page.wait_for_timeout(1500)  # until nothing fades any more


def save(page: Page, name: str, **options) -> None:
    """Save a picture, in 256 colours where it is large: a third of the size."""
    path = DOCS / name
    page.screenshot(path=path, **options)
    if path.stat().st_size > LARGEST:
        picture = Image.open(path).convert("RGB")
        picture.quantize(palette=picture.quantize(256), dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)


with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
    page = browser.new_page(viewport=PHONE, color_scheme="dark", device_scale_factor=2)
    read_an_example(page)
    save(page, "app_phone.png")
    page = browser.new_page(viewport=LAPTOP)
    read_an_example(page)
    page.get_by_label("Heatmap").check()
    expect(page.locator(".heat-scale")).to_be_visible(timeout=PATIENCE)
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(500)
    save(page, "app.png", clip={"x": 0, "y": 0, "width": 1280, "height": 1015}, full_page=True)
    with page.expect_download(timeout=PATIENCE) as download:
        page.locator("#make-report").click()
    download.value.save_as(DOCS / "case_report.html")
    page.set_viewport_size(PAPER)
    page.goto((DOCS / "case_report.html").as_uri())
    save(page, "case_report.png")
    (DOCS / "case_report.html").unlink()
    page.set_viewport_size({"width": 1180, "height": 940})
    page.goto(Path(sys.argv[2]).resolve().as_uri())
    page.wait_for_timeout(500)
    page.screenshot(path=DOCS / "report.png", clip={"x": 0, "y": 0, "width": 1180, "height": 1500}, full_page=True)
    if len(sys.argv) > 3:
        page.set_viewport_size({"width": 1180, "height": 520})
        page.goto(sys.argv[3])
        expect(page.get_by_text("pneumo_hf: heatmap")).to_be_visible(timeout=PATIENCE)
        save(page, "pacs.png")
    browser.close()
