"""The pictures of the docs, from the real pages: python docs/take_screenshot.py http://127.0.0.1:7860 PAGE.html."""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

DOCS = Path(__file__).parent
PATIENCE = 30_000  # milliseconds


def read_an_example(page: Page) -> None:
    page.goto(sys.argv[1])
    page.get_by_text("pneumonia_1.jpeg").click()
    expect(page.locator("#verdict")).to_contain_text("Probability of pneumonia", timeout=PATIENCE)
    expect(page.locator("#film img")).to_be_visible(timeout=PATIENCE)


with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": 1180, "height": 940})
    read_an_example(page)
    plain = page.locator("#film img").get_attribute("src")
    page.locator("#opacity input[type=range]").focus()
    for _ in range(9):
        page.keyboard.press("ArrowRight")
    expect(page.locator("#film img")).not_to_have_attribute("src", plain, timeout=PATIENCE)
    page.locator("#make-report").click()
    expect(page.locator("#case-report")).to_contain_text("case_report", timeout=PATIENCE)
    with page.expect_download() as download:
        page.locator("#case-report a").first.click()
    download.value.save_as(DOCS / "case_report.html")
    page.wait_for_timeout(1500)
    page.screenshot(path=DOCS / "app.png")
    page.set_viewport_size({"width": 900, "height": 1150})
    page.goto((DOCS / "case_report.html").as_uri())
    page.screenshot(path=DOCS / "case_report.png")
    (DOCS / "case_report.html").unlink()
    page.set_viewport_size({"width": 1180, "height": 940})
    page.goto(Path(sys.argv[2]).resolve().as_uri())
    page.wait_for_timeout(500)
    page.screenshot(path=DOCS / "report.png", clip={"x": 0, "y": 0, "width": 1180, "height": 1500}, full_page=True)
    browser.close()
