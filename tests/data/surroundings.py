"""Fixtures of the corpus tests: a small local web server, empty folders, and a known corpus named `play`."""

import hashlib
import http.server
import threading

import pytest

from minilora.data import sources
from minilora.data.sources import SOURCES, CorpusError

TEXT = "“To be, or not to be”\nThat is the question.\n" * 100
GOOD = TEXT.encode()
WRONG = GOOD[:-1] + b"!"


class Handler(http.server.BaseHTTPRequestHandler):
    """Respond with the method named by the path. Setting `server.end` releases the responses that hang."""

    def do_GET(self):
        self.server.agents.append(self.headers["User-Agent"])
        getattr(self, self.path.strip("/"))()

    def send(self, body, length=None):
        self.send_response(200)
        self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def good(self):
        self.send(GOOD)

    def wrong(self):
        self.send(WRONG)

    def truncated(self):
        self.send(GOOD[:1000], len(GOOD))

    def too_long(self):
        self.send(GOOD * 1000)

    def missing(self):
        self.send_error(404)

    def silent(self):
        self.server.end.wait(20)

    def trickling(self):
        self.send(GOOD[:1], len(GOOD))
        for _ in range(100):
            self.server.end.wait(0.05)
            self.wfile.write(b".")

    def garbage(self):
        self.wfile.write(b"this is not HTTP\r\n\r\n")

    def bad_chunk(self):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\nhello\r\n")

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):  # some tests disconnect on purpose
        pass


@pytest.fixture(scope="module")
def server():
    server = Server(("127.0.0.1", 0), Handler)
    server.end, server.agents = threading.Event(), []
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.end.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The path of a temporary cache folder; MINILORA_DATA is unset."""
    monkeypatch.setattr(sources, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.delenv("MINILORA_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "cache"


@pytest.fixture
def impatient(monkeypatch):
    for name, seconds in {"SOCKET_SECONDS": 1.0, "OPEN_SECONDS": 2.0, "TRANSFER_SECONDS": 1.0}.items():
        monkeypatch.setattr(sources, name, seconds)


@pytest.fixture
def data(tmp_path, monkeypatch, cache):
    """An empty folder, set as MINILORA_DATA."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("MINILORA_DATA", str(folder))
    return folder


@pytest.fixture
def source(server, cache, monkeypatch):
    """source(path): register a corpus `play` with this URL path on the server, and return its Source."""

    def at(path):
        url = f"http://127.0.0.1:{server.server_port}/{path}"
        sha256 = hashlib.sha256(GOOD).hexdigest()
        play = sources.Source("play", "play.txt", len(GOOD), sha256, url, "ours", "a play")
        monkeypatch.setitem(SOURCES, "play", play)
        server.agents.clear()
        return play

    return at


def put(folder, content=GOOD, name="play.txt"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


def message(call, *arguments, **options):
    with pytest.raises(CorpusError) as error:
        call(*arguments, **options)
    return str(error.value)


def assert_says_how_to_go_on(text, source, cache):
    for part in (source.url, source.sha256, source.file, str(cache), "MINILORA_DATA"):
        assert part in text
