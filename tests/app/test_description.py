"""What REST says of itself: a page that needs no network, and a description that holds for whatever is sent."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.app.browser import CHROMIUM, PATIENCE

SECONDS = 15


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")
def test_the_description_is_read_without_a_network(browser, url: str) -> None:
    from playwright.sync_api import expect

    page, elsewhere, wrong = browser.new_page(), [], []
    page.on("pageerror", lambda error: wrong.append(str(error)))

    def only_here(route) -> None:
        if route.request.url.startswith((url, "data:")):
            route.continue_()
        else:
            elsewhere.append(route.request.url)
            route.abort()

    page.route("**/*", only_here)
    page.goto(f"{url}/v1/docs")
    page.locator(".opblock-summary-path", has_text="/score").click(timeout=PATIENCE)
    expect(page.get_by_text("PNG, JPEG, TIFF, WebP or DICOM").first).to_be_visible(timeout=PATIENCE)
    page.close()
    assert not elsewhere and not wrong


def test_whatever_the_description_allows_is_answered_as_it_says(url: str, tmp_path: Path) -> None:
    """`schemathesis` sends what fits the description and what does not; no answer may be a 500."""
    command = [Path(sys.executable).with_name("schemathesis"), "run", f"{url}/v1/openapi.json", f"--url={url}/v1"]
    limits = ["--max-time", str(SECONDS), "--generation-deterministic", "--seed", "0", "--workers", "1"]
    checks = [
        "--checks",
        "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
    ]
    done = subprocess.run([*map(str, command), *limits, *checks], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
