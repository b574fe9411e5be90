"""A real Chromium for the tests of the pages, and what axe-core finds on them."""

import shutil

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
PATIENCE = 30_000  # milliseconds
LAPTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
SCHEMES = ("light", "dark")
GRAVE = ("serious", "critical")  # axe-core's words for what keeps people out; colour contrast is serious
SETTLED = """
!document.querySelector(".pending, .generating")
&& document.getAnimations().every(one => one.playState != "running" || one.effect.getTiming().iterations == Infinity)
"""  # half faded in, or while its answer is awaited, a text has no contrast
IN_CHROMIUM = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)"),
]


def grave_violations(page, context: str | None = None) -> list[str]:
    """Run axe-core on a page as it stands: one line for each element with a serious or critical violation.

    Args:
        context: a CSS selector of the part to look at; by default the whole page.
    """
    from axe_playwright_python.sync_playwright import Axe

    page.wait_for_function(SETTLED)
    found = Axe().run(page, context).response["violations"]
    return [
        f"{rule['impact']} {rule['id']}: {' '.join(map(str, node['target']))}: {node['html'][:120]}: "
        + "; ".join(check["message"] for check in node["any"] + node["all"] + node["none"])
        for rule in found
        if rule["impact"] in GRAVE
        for node in rule["nodes"]
    ]
