"""The server: available only on this machine, no outgoing requests, and a clear error when it cannot start."""

import argparse
import os
import re
import socket
import subprocess
import sys

import pytest

from minilora.app import server
from minilora.app.actions import Actions
from minilora.cli import app


def parse(*arguments):
    parser = argparse.ArgumentParser()
    app.add(parser.add_subparsers())
    return parser.parse_args(["app", *arguments])


def test_by_default_it_listens_on_this_machine_alone():
    flags = parse()
    assert (flags.host, flags.port, flags.open, flags.seconds) == ("127.0.0.1", None, False, 60.0)
    assert server.HOST == "127.0.0.1"


@pytest.mark.parametrize("flag", ["--port 0", "--port 65536", "--port x", "--seconds nan"])
def test_wrong_flags_are_refused(flag, capsys):
    with pytest.raises(SystemExit):
        parse(*flag.split())
    assert "expected" in capsys.readouterr().err


def test_without_gradio_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ValueError, match=re.escape(f"run {sys.executable} -m pip install ") + r".*\[app\]'$"):
        app.run(parse())


def test_nothing_of_the_app_loads_gradio():
    rooms = ("actions", "charts", "colors", "learning", "looking", "page", "server", "session", "writing")
    script = f"import sys; import {', '.join(f'minilora.app.{room}' for room in rooms)}; print('gradio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.fixture(scope="module")
def gradio():
    return pytest.importorskip("gradio", reason="Gradio is not installed (extra `app`)")


@pytest.fixture(scope="module")
def config(gradio, model, tmp_path_factory):
    """The page's configuration, as sent to the browser."""
    from minilora.app.page import page

    return page(Actions(model, 60), tmp_path_factory.mktemp("voices")).get_config_file()


def test_the_page_offers_no_api_sends_no_analytics_and_labels_every_field(config):
    assert {dependency["api_visibility"] for dependency in config["dependencies"]} == {"private"}
    assert config["analytics_enabled"] is False
    fields = ("textbox", "slider", "number", "dropdown", "file")
    labels = [part["props"].get("label") for part in config["components"] if part["type"] in fields]
    assert len(labels) == len(set(labels) - {None, "a new voice"}) + 3


@pytest.mark.usefixtures("gradio")
def test_the_theme_fetches_no_fonts():
    theme = server._theme()
    assert theme._stylesheets == []
    assert "@import" not in theme._get_theme_css()


@pytest.mark.usefixtures("gradio")
def test_a_taken_port_and_a_host_that_is_not_this_machine_are_said():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} is in use"), server.running(port=port):
            pass
    for host in ("203.0.113.7", "nowhere.invalid"):
        with pytest.raises(ValueError, match=f"{host} is not an address of this machine"), server.running(host):
            pass


@pytest.mark.usefixtures("gradio")
def test_sigterm_ends_it_as_ctrl_c_does(tmp_path):
    command = [sys.executable, "-m", "minilora", "app"]
    surroundings = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=surroundings, stdout=subprocess.PIPE, text=True) as app:
        assert "http://127.0.0.1:" in app.stdout.readline()
        assert list(tmp_path.glob("minilora-app-*"))
        app.terminate()
        assert app.wait(60) == 0
    assert not list(tmp_path.glob("minilora-app-*"))


@pytest.mark.usefixtures("gradio")
def test_what_it_kept_is_gone_afterwards():
    with server.running() as address:
        root = os.environ["GRADIO_TEMP_DIR"]
        assert os.path.isdir(root)
        assert address.startswith("http://127.0.0.1:")
        assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert not os.path.exists(root)
