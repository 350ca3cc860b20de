"""The server of the app. By default it accepts connections only from this machine; it makes no network requests."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minilora.app import learning
from minilora.app.actions import Actions
from minilora.messages import install_command
from minilora.voices import attach

if TYPE_CHECKING:
    import gradio as gr

HOST, PORT = "127.0.0.1", 7860
SILENT = {  # set before Gradio is imported: no telemetry, no version check, no model hub
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
}


def serve(
    host: str = HOST, port: int | None = None, seconds: float = learning.MINUTE, open_browser: bool = False
) -> None:
    """Serve the page until Ctrl-C or SIGTERM. Raises ValueError if Gradio is missing or the port is in use."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # like Ctrl-C: trained voices and uploads are deleted
    with running(host, port, seconds, open_browser) as address:
        print(f"minilora app: {address} (press Ctrl-C to stop)", flush=True)
        threading.Event().wait()


@contextmanager
def running(
    host: str = HOST, port: int | None = None, seconds: float = learning.MINUTE, open_browser: bool = False
) -> Iterator[str]:
    """Run the app during this block; yield its address. If `port` is None, the first free port from 7860 up is used."""
    _refuse_host(host)
    with tempfile.TemporaryDirectory(prefix="minilora-app-", ignore_cleanup_errors=True) as root:
        os.environ.update(SILENT, GRADIO_TEMP_DIR=root)  # uploads are deleted with the folder
        _import()
        from minilora.app.page import page

        blocks = page(Actions(attach(), seconds), Path(root))
        try:
            yield _launch(blocks, host, port, open_browser)
        finally:
            blocks.close(verbose=False)


def _refuse_host(host: str) -> None:
    """Raise ValueError unless `host` is an address of this machine. Without this check, Gradio would try every port."""
    try:
        family, *_, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind(address)
    except OSError:
        raise ValueError(f"{host} is not an address of this machine; choose another --host") from None


def _import() -> None:
    try:
        importlib.import_module("gradio")
    except ImportError as error:
        raise ValueError(
            f"the app needs Gradio, which cannot be imported ({error}); run {install_command('app')}"
        ) from None


def _launch(blocks: gr.Blocks, host: str, port: int | None, open_browser: bool) -> str:
    """Start the server and return its address."""
    try:
        _, address, _ = blocks.launch(
            server_name=host,
            server_port=port,
            inbrowser=open_browser,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            enable_monitoring=False,
            footer_links=[],
            max_file_size=10 * learning.LARGEST_FILE,  # so that `learning` can reject a large file with a message
            theme=_theme(),
            css=(resources.files("minilora.app") / "page.css").read_text(encoding="utf-8"),
        )
    except OSError:
        taken = f"port {port} is in use" if port else f"no free port from {PORT} up"
        raise ValueError(f"{taken} on {host}; choose another --port") from None
    return address


def _theme() -> Any:
    """Return a theme with system fonts, so that none is downloaded, and in gray: colors are reserved for the texts."""
    import gradio as gr

    mono = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace"]
    theme = gr.themes.Default(
        primary_hue="stone", neutral_hue="stone", font=["system-ui", "sans-serif"], font_mono=mono
    )
    dark, light = "#292524", "#f5f5f4"
    return theme.set(
        button_primary_background_fill=dark,
        button_primary_background_fill_hover="#57534e",
        button_primary_text_color="white",
        button_primary_background_fill_dark=light,
        button_primary_background_fill_hover_dark="#d6d3d1",
        button_primary_text_color_dark=dark,
        slider_color="#d6d3d1",  # same as the rest of the track, because the left end of a slider has no meaning here
        slider_color_dark="#57534e",
    )
