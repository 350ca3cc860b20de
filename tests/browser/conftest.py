"""The app in a real browser: the app runs in a separate process, and the tests use it through Chromium.

The tests are skipped, with a reason, if Gradio, Playwright or Chromium is missing. The browser is the one installed on
the machine, or the one at the path in the environment variable MINILORA_CHROMIUM; none is downloaded.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

NAMES = "chromium", "chromium-browser", "google-chrome"
PATIENCE = 60_000  # ms, the timeout of every wait; generous, because the machine may be busy
LEARNING, LONG = 3, 600  # seconds to train a voice; LONG is far more than the timeout

# Runs the app and prints every address outside this machine that the server tries to reach.
SERVER = """
import socket, sys
from minilora.app.server import serve

def noting(name):
    original = getattr(socket.socket, name)
    def connect(self, address):
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            print("REACHED OUT", address, flush=True)
        return original(self, address)
    setattr(socket.socket, name, connect)

def resolving(host, *rest, original=socket.getaddrinfo, **options):
    if host not in ("127.0.0.1", "::1", "localhost", None):
        print("REACHED OUT", host, flush=True)
    return original(host, *rest, **options)

noting("connect")
noting("connect_ex")
socket.getaddrinfo = resolving
serve(seconds=float(sys.argv[1]))
"""


@pytest.fixture(scope="session")
def chromium():
    """The path of the Chromium executable."""
    for package in ("gradio", "playwright"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    found = os.environ.get("MINILORA_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if not found or not Path(found).exists():
        pytest.skip("no Chromium found; install it, or set MINILORA_CHROMIUM to its path")
    return found


class App:
    """The running app: its process, its address, its temporary folder, and its log."""

    def __init__(self, folder, seconds=LEARNING):
        self.folder, self.log = folder, folder / "log"
        # GRADIO_IS_E2E_TEST: the state of a closed page is deleted after a second, not after an hour.
        surroundings = {"TMPDIR": str(folder), "GRADIO_IS_E2E_TEST": "1", "PYTHONUNBUFFERED": "1"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SERVER, str(seconds)],
                env={**os.environ, **surroundings},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.address = self.process.stdout.readline().split()[2]

    def close(self):
        """End the app; return the rest of its output, and its log."""
        self.process.terminate()
        return self.process.communicate(timeout=60)[0] + self.log.read_text()


@pytest.fixture(scope="session")
def app(chromium, tmp_path_factory):
    with running(tmp_path_factory, LEARNING) as app:
        yield app


@pytest.fixture
def patient_app(chromium, tmp_path_factory):
    """An app that trains a voice for longer than any test waits."""
    with running(tmp_path_factory, LONG) as app:
        yield app


@contextmanager
def running(tmp_path_factory, seconds):
    app = App(tmp_path_factory.mktemp("app"), seconds)
    yield app
    printed = app.close()
    assert "REACHED OUT" not in printed
    assert "Traceback" not in printed


@pytest.fixture(scope="session")
def browser(chromium):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visitor:
    """A separate browser context with the page open, and the actions that the tests share."""

    def __init__(self, browser, address, width, height):
        self.context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True)
        self.context.set_default_timeout(PATIENCE)
        self.page, self.errors, self.hosts = self.context.new_page(), [], set()
        self.page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("response", lambda answer: answer.status >= 400 and self.errors.append(answer.url))
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).hostname))
        self.page.goto(address)
        self.page.wait_for_selector("#write")

    def open(self, tab):
        self.page.get_by_role("tab", name=tab).click()

    def say(self, label, value):
        """Fill a field."""
        self.page.get_by_label(label, exact=True).fill(str(value))

    def strength(self, name):
        """Return the number field next to the slider of a voice."""
        return self.page.get_by_label(f"number input for {name}", exact=True)

    def begin(self, action=None):
        """Start recording changes of the page, then run `action`, by default a click on Generate."""
        self.page.evaluate(
            """window.changed = new Set();
            for (const id of ['status', 'texts'])
                new MutationObserver(() => window.changed.add(id)).observe(
                    document.querySelector(`#${id} .prose`), {subtree: true, childList: true, characterData: true});"""
        )
        (action or (lambda: self.page.click("#write")))()

    def finished(self, characters, seed=0):
        """Wait until new texts of this length are complete; return the texts of the base and of the voices.

        The texts are read in the same call that checks the status, because leaving a field may start the next ones.
        """
        texts = self.page.wait_for_function(
            """status => changed.size == 2 && document.getElementById('status').innerText.trim() === status &&
                ['base', 'voices'].map(kind => document.querySelector(`.panel.${kind} .written`).textContent)""",
            arg=f"{characters} of {characters} characters, seed {seed}",
        )
        return texts.json_value()

    def write(self, characters=200, seed=0):
        """Click Generate, and return the two texts when they are complete."""
        self.begin()
        return self.finished(characters, seed)

    def problem(self, place="status"):
        """Return the error message that is shown."""
        return self.page.locator(f"#{place} .problem").inner_text()

    def overflow(self):
        """Return the elements that extend beyond the right edge of the page."""
        return self.page.evaluate(
            """[...document.querySelectorAll('.main *')]
                .filter(part => part.getBoundingClientRect().right > innerWidth + 1)
                .map(part => part.tagName + '#' + part.id + '.' + part.className)"""
        )


@pytest.fixture
def visit(app, browser):
    """Like `visiting`, for `app`."""
    yield from visiting(app, browser)


@pytest.fixture
def visit_patient(patient_app, browser):
    """Like `visiting`, for `patient_app`."""
    yield from visiting(patient_app, browser)


def visiting(app, browser):
    """visit(width=1280, height=900): open the page in a new browser context and return its Visitor.

    At the end, check that no page reported an error or sent a request to another machine.
    """
    visitors = []

    def come(width=1280, height=900):
        visitors.append(Visitor(browser, app.address, width, height))
        return visitors[-1]

    yield come
    for visitor in visitors:
        visitor.context.close()
    assert [error for visitor in visitors for error in visitor.errors] == []
    assert set().union(*(visitor.hosts for visitor in visitors)) == {"127.0.0.1"}
