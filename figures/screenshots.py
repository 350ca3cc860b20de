"""Screenshots of the app. `python figures/screenshots.py` runs the app in a browser and saves images in `figures/`.

Needs the extra `app`, the package `playwright`, and Chromium, which is located in the same way as in `tests/browser`.
"""

import os
import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from minilora.app.server import running
from minilora.data import load_corpus

FIGURES = Path(os.environ.get("MINILORA_FIGURES") or Path(__file__).parent.parent / "figures")
NAMES = "chromium", "chromium-browser", "google-chrome"
SECONDS = 40  # training time of the voice
PATIENCE = 300_000  # timeout for the page, in ms


def write(page: Page) -> None:
    """Generate with Shakespeare at strength 1, the page's default prompt and seed."""
    page.click("#write")
    page.wait_for_function("/^200 of 200/.test(document.querySelector('#status').innerText)")
    page.locator("body").click(position={"x": 2, "y": 2})  # move the pointer away from the button


def teach(page: Page, text: str) -> None:
    page.get_by_role("tab", name="Train a new voice").click()
    page.get_by_label("Name of the voice").fill("cook")
    page.get_by_label("Training text").fill(text)
    page.click("#learn")
    page.wait_for_function("/has a slider/.test(document.querySelector('#learning').innerText)")
    page.locator("a[download$='.zip']").wait_for()
    page.locator("body").click(position={"x": 2, "y": 2})


def save(page: Page, file: Path) -> None:
    """Save the page (on a phone, its upper part) in 128 colors: a smaller file, with no visible difference."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "page.png"
        page.screenshot(path=picture, full_page=page.viewport_size["width"] > 1000)
        Image.open(picture).convert("RGB").quantize(128).save(file, optimize=True)
    print(f"{file.name}: {file.stat().st_size:,} bytes")


def main() -> None:
    chromium = os.environ.get("MINILORA_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    scheme = os.environ.get("MINILORA_SCHEME", "light")
    with running(seconds=SECONDS) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, width, height in (("app_write", 1280, 720), ("app_teach", 1280, 720), ("app_phone", 375, 1475)):
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.set_default_timeout(PATIENCE)
            page.goto(address)
            if name == "app_teach":
                teach(page, load_corpus("pastiche:recipe:30000").text)
            else:
                write(page)
            save(page, FIGURES / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main()
