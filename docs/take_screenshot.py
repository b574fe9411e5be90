"""The pictures of the docs, from the real pages: python docs/take_screenshot.py http://127.0.0.1:7860 PAGE.html."""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

DOCS = Path(__file__).parent

with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": 1180, "height": 940})
    page.goto(sys.argv[1])
    page.get_by_text("pneumonia_1.jpeg").click()
    expect(page.locator("#verdict")).to_contain_text("Probability of pneumonia", timeout=30_000)
    expect(page.locator("#film img")).to_be_visible(timeout=30_000)
    page.wait_for_timeout(1500)
    page.screenshot(path=DOCS / "app.png")
    page.get_by_role("tab", name="The model").click()
    expect(page.locator("#outcome")).to_contain_text("sensitivity")
    page.wait_for_timeout(1500)
    page.screenshot(path=DOCS / "app_model.png")
    page.goto(Path(sys.argv[2]).resolve().as_uri())
    page.wait_for_timeout(500)
    page.screenshot(path=DOCS / "report.png", clip={"x": 0, "y": 0, "width": 1180, "height": 1500}, full_page=True)
    browser.close()
