"""The app in a real browser: it runs in a process of its own, and Chromium uses it as a person would.

Skipped, with a reason, where Gradio, Playwright or a Chromium is missing. The browser is the machine's own, or the one
that the environment variable MINILORA_CHROMIUM names; none is downloaded.
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
PATIENCE = 60_000  # ms, for whatever a page is waited for: other things may keep the machine busy
LEARNING, LONG = 3, 600  # seconds to train a voice; LONG is far more than the timeout

# Runs the app, and notes every address outside this machine that the server itself tries to reach.
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
    """The path of a browser."""
    for package in ("gradio", "playwright"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    found = os.environ.get("MINILORA_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if not found or not Path(found).exists():
        pytest.skip("there is no Chromium here; install one, or set MINILORA_CHROMIUM to its path")
    return found


class App:
    """The running app: its address, its temporary folder, and what its process has printed."""

    def __init__(self, folder, seconds=LEARNING):
        self.folder, self.log = folder, folder / "log"
        # GRADIO_IS_E2E_TEST: what a closed page kept is forgotten after a second, not after an hour.
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
        """What else it has printed, when it has ended."""
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
    """A browser context of its own, with the page open, and the few things that every test does there."""

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
        """Type into a field."""
        self.page.get_by_label(label, exact=True).fill(str(value))

    def strength(self, name):
        """The number beside a voice's slider."""
        return self.page.get_by_label(f"number input for {name}", exact=True)

    def begin(self, action=None):
        """Do `action`, by default press Generate, and from now on note what changes."""
        self.page.evaluate(
            """window.changed = new Set();
            for (const id of ['status', 'texts'])
                new MutationObserver(() => window.changed.add(id)).observe(
                    document.querySelector(`#${id} .prose`), {subtree: true, childList: true, characterData: true});"""
        )
        (action or (lambda: self.page.click("#write")))()

    def finished(self, characters, seed=0):
        """Wait until a text of so many characters has been written since; the base's text and the voices'.

        They are read in the moment in which the status says so: leaving a field may have begun the next text by then.
        """
        texts = self.page.wait_for_function(
            """status => changed.size == 2 && document.getElementById('status').innerText.trim() === status &&
                ['base', 'voices'].map(kind => document.querySelector(`.panel.${kind} .written`).textContent)""",
            arg=f"{characters} of {characters} characters, seed {seed}",
        )
        return texts.json_value()

    def write(self, characters=200, seed=0):
        """Press Generate, and wait."""
        self.begin()
        return self.finished(characters, seed)

    def problem(self, place="status"):
        """The sentence that says what is wrong."""
        return self.page.locator(f"#{place} .problem").inner_text()

    def overflow(self):
        """What sticks out of the page on the right."""
        return self.page.evaluate(
            """[...document.querySelectorAll('.main *')]
                .filter(part => part.getBoundingClientRect().right > innerWidth + 1)
                .map(part => part.tagName + '#' + part.id + '.' + part.className)"""
        )


@pytest.fixture
def visit(app, browser):
    """As `visiting`, for the app of the session."""
    yield from visiting(app, browser)


@pytest.fixture
def visit_patient(patient_app, browser):
    """As `visiting`, for `patient_app`."""
    yield from visiting(patient_app, browser)


def visiting(app, browser):
    """visit(width=1280, height=900): someone with a browser of their own; afterwards nothing may have gone wrong."""
    visitors = []

    def come(width=1280, height=900):
        visitors.append(Visitor(browser, app.address, width, height))
        return visitors[-1]

    yield come
    for visitor in visitors:
        visitor.context.close()
    assert [error for visitor in visitors for error in visitor.errors] == []
    assert set().union(*(visitor.hosts for visitor in visitors)) == {"127.0.0.1"}
