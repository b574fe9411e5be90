"""Take the README's picture of the app from the real page: python docs/take_screenshot.py http://127.0.0.1:7860."""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": 1180, "height": 900})
    page.goto(sys.argv[1])
    page.get_by_text("pneumonia_1.jpeg").click()
    expect(page.locator("#verdict")).to_contain_text("Probability of pneumonia", timeout=30_000)
    expect(page.locator("#film img")).to_be_visible(timeout=30_000)
    page.wait_for_timeout(1500)
    page.screenshot(path=Path(__file__).parent / "app.png")
    browser.close()
