"""The layout of the page in Gradio, and the connections between its buttons and the actions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minilora.app import actions, colors, learning, writing
from minilora.app.session import MOST, Session
from minilora.voices import voices

if TYPE_CHECKING:
    import gradio as gr

TITLE = "minilora: voices"
HEADER = f"""<header><h1>{TITLE}</h1><p>The base is a small language model, trained on US presidents’ addresses
and then frozen. A <em>voice</em> is a LoRA adapter: 6% more parameters, trained on a different text. The base and
the voice each generate a text from the same prompt and seed.</p></header>"""
EMPTY = """<p class="hint">Press <b>Generate</b> to compare two texts: one from the base, the other from the same model
with the voices set on the sliders.</p>"""
MIXER = """<p class="hint">Strength of each voice: 1 is as trained, 0 is off, and negative values move away from the
voice. Releasing a slider generates both texts again.</p>"""
TEACH = f"""<p class="hint">Paste a text or choose a .txt file with at least {learning.SHORTEST:,} characters. With
20,000 or more, the voice is easy to recognize. The text and the voice stay on the machine that runs the app and are
deleted when the app ends.</p>"""
LOOK = """<p class="hint">Each adapted layer computes h = W x + s · B A x. W belongs to the base and is frozen; only the
low-rank factors A and B were trained.</p>"""
POLITE = "element.setAttribute('role', 'status')"  # screen readers announce changes to this element
AT_ONCE = 4  # concurrent generation requests; further ones wait
WAITING = 40  # queue length; once it is full, users are told to try again


def page(act: actions.Actions, root: Path) -> gr.Blocks:
    """Build the page with its three tabs; voices trained in a browser are stored in `root`."""
    import gradio as gr

    with gr.Blocks(title=TITLE, fill_width=True, analytics_enabled=False) as blocks:
        session = gr.State(Session(root), delete_callback=Session.close)
        blocks.load(
            lambda: Session(root), None, session, queue=False, **_quiet()
        )  # Gradio deletes a state only if it was set by an event
        gr.HTML(HEADER)
        with gr.Tabs():
            with gr.Tab("Generate"):
                sliders, written = _write_tab(act, session)
            with gr.Tab("Train a new voice"):
                taught, archives = _teach_tab(act, session)
            with gr.Tab("Look inside"):
                picker = _look_tab(session)
        taught.success(_show_voices, session, [*sliders, picker, archives, *written], **_quiet())
    blocks.queue(max_size=WAITING, api_open=False)
    return blocks


def _write_tab(act: actions.Actions, session: gr.State) -> tuple[list[gr.Slider], list[gr.HTML]]:
    """Build the Generate tab; return its sliders, with hidden ones for future voices, and its output elements."""
    import gradio as gr

    with gr.Row(equal_height=False, elem_classes="ask"):
        prompt = gr.Textbox("The king ", label="Prompt", max_lines=1, scale=1, min_width=260, elem_id="prompt")
        go = gr.Button("Generate", variant="primary", scale=0, min_width=130, elem_id="write")
        stop = gr.Button("Stop", scale=0, min_width=100, elem_id="stop-writing")
    with gr.Row(equal_height=False, elem_classes="stage"):
        with gr.Column(scale=7, min_width=300):
            outputs = [_output("status", POLITE), _output("texts", value=EMPTY)]
            gr.HTML(colors.legend())
            outputs += [_output("meters"), _output("next")]
        with gr.Column(scale=2, min_width=250, elem_classes="mixer"):
            gr.HTML(MIXER)
            sliders = _sliders()
            temperature = _slider("Temperature", 0.8, "temperature", 0, writing.HOTTEST)
            tokens = _slider("Length", 200, "tokens", 20, writing.MOST_TOKENS, step=10)
            seed = gr.Number(0, label="Seed", elem_id="seed")
    write, inputs = _friendly(act.write, len(outputs)), [session, prompt, temperature, seed, tokens, *sliders]
    triggers = [go.click, prompt.submit, seed.submit, *(s.release for s in [*sliders, temperature, tokens])]
    # always_last: events during generation trigger one more run after it, with the latest values.
    gr.on(triggers, write, inputs, outputs, trigger_mode="always_last", concurrency_limit=AT_ONCE, **_quiet())
    stop.click(actions.stop_writing, session, None, queue=False, **_quiet())
    return sliders, outputs


def _sliders() -> list[gr.Slider]:
    """Return a slider for each packaged voice, the first one at 1, and hidden ones for voices trained here."""
    low, high = writing.WEAKEST, writing.STRONGEST
    known = [_slider(voice.name, float(i == 0), f"voice{i}", low, high) for i, voice in enumerate(voices())]
    places = range(len(known), len(known) + MOST)
    return known + [_slider("a new voice", 0.0, f"voice{i}", low, high, visible=False) for i in places]


def _slider(
    label: str, value: float, id: str, low: float, high: float, step: float = 0.05, visible: bool = True
) -> gr.Slider:
    import gradio as gr

    return _unchecked(gr.Slider(low, high, value, step=step, label=label, visible=visible, buttons=[], elem_id=id))


def _unchecked(component: Any) -> Any:
    """Turn off the validation of a component, so that the actions can report invalid or empty values themselves."""
    vars(component)["preprocess"] = lambda value: value
    return component


def _teach_tab(act: actions.Actions, session: gr.State) -> tuple[Any, gr.File]:
    """Build the training tab; return the event that follows the end of training, and the list of downloads."""
    import gradio as gr

    length = "a minute" if act.seconds == learning.MINUTE else f"{act.seconds:g} seconds"
    gr.HTML(TEACH)
    with gr.Row(equal_height=False):
        with gr.Column(min_width=300):
            name = gr.Textbox(label="Name of the voice", max_lines=1, elem_id="voice-name")
            text = gr.Textbox(label="Training text", lines=5, max_lines=8, elem_id="voice-text")
            upload = gr.File(label="or a .txt file", file_types=[".txt"], height=135, elem_id="voice-file")
            with gr.Row():
                go = gr.Button(f"Train for {length}", variant="primary", scale=3, min_width=160, elem_id="learn")
                stop = gr.Button("Stop", scale=1, min_width=80, elem_id="stop-learning")
        with gr.Column(min_width=300):
            status, curve = _output("learning", POLITE), _losses()
            archives = gr.File(
                label="Download your voices, for PEFT or minilora generate --adapter",
                file_count="multiple",
                interactive=False,
                visible=False,
            )
    fields = [session, name, text, upload]
    checked = go.click(_friendly(act.check), fields, status, concurrency_limit=None, **_quiet())
    outputs: list[Any] = [status, curve]
    learn = _friendly(act.learn, len(outputs))
    taught = checked.success(_drawn(learn), fields, outputs, concurrency_limit=1, **_quiet("minimal"))
    stop.click(actions.stop_learning, session, None, queue=False, **_quiet())
    return taught, archives


def _losses() -> gr.LinePlot:
    """Return the plot of the losses, hidden until training starts."""
    import gradio as gr

    return gr.LinePlot(
        x="step",
        y="loss",
        color="text",
        y_title="loss, nats per byte",
        color_title=" ",
        color_map={"training": "#8c8782", "held out": "#d2601a"},
        height=320,
        buttons=[],
        visible=False,
        elem_id="curve",
    )


def _drawn(learn: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """Wrap the action so that its Progress is shown in the plot."""
    import gradio as gr
    import pandas as pd

    def shown(*values: Any) -> Iterator[Any]:
        for status, progress in learn(*values):
            if not isinstance(progress, learning.Progress) or not progress.losses:
                yield (
                    status,
                    gr.skip(),
                )  # the plot fixes its set of lines when first drawn, so wait until both losses exist
                continue
            points = [(step, loss, "training") for step, loss in enumerate(progress.losses, 1)]
            points += [(step, loss, "held out") for step, loss in progress.evaluations]
            table = pd.DataFrame(points, columns=["step", "loss", "text"])
            yield status, gr.LinePlot(table, visible=True, x_lim=[0, progress.iters])

    return shown


def _look_tab(session: gr.State) -> gr.Dropdown:
    """Build the Look inside tab; return its voice menu."""
    import gradio as gr

    known = [voice.name for voice in voices()]
    gr.HTML(LOOK)
    with gr.Row(equal_height=False, elem_classes="ask"):
        picker = gr.Dropdown(known, value=known[0], label="Voice", filterable=False, min_width=200, elem_id="picker")
        _unchecked(picker)
        go = gr.Button("Check merging", variant="primary", scale=0, min_width=180, elem_id="merge")
    merging = _output("merging")
    table = _output("parameters", value=actions.parameters(Session(Path()), known[0]))
    check = _friendly(lambda *chosen: iter([actions.merging(*chosen)]))
    look = _friendly(lambda *chosen: iter([(actions.parameters(*chosen), "")]), 2)
    go.click(check, [session, picker], merging, **_quiet())
    picker.change(look, [session, picker], [table, merging], **_quiet())
    return picker


def _output(id: str, script: str | None = None, value: str = "") -> gr.HTML:
    """Return an element for the HTML output of an action."""
    import gradio as gr

    return gr.HTML(value, elem_id=id, js_on_load=script)


def _show_voices(session: Session) -> list[Any]:
    """Return the updates after training: the sliders (the new one at 1), the menu, the downloads, cleared outputs."""
    import gradio as gr

    known, own = [voice.name for voice in voices()], list(session.voices)
    sliders: list[Any] = [gr.update(value=0) for _ in known]
    for place in range(MOST):
        if place < len(own):
            sliders.append(gr.update(label=own[place], visible=True, value=float(place == len(own) - 1)))
        else:
            sliders.append(gr.update(visible=False, value=0))
    files = [str(learning.pack(folder)) for folder in session.voices.values()]
    fresh = f'<p class="hint">Press <b>Generate</b>: {escape(own[-1])} is at 1, and the other voices are at 0.</p>'
    return [*sliders, gr.update(choices=known + own), gr.update(value=files, visible=bool(files)), "", fresh, "", ""]


def _friendly(action: Callable[..., Iterator[Any]], outputs: int = 1) -> Callable[..., Iterator[Any]]:
    """Wrap the action so that the message of a ValueError is shown in its first output, without a traceback.

    The error is then raised again as a hidden gr.Error, so that chained events do not run.
    """
    import gradio as gr

    @wraps(action)
    def shown(*values: Any) -> Iterator[Any]:
        try:
            yield from action(*values)
        except ValueError as error:
            message = f'<p class="problem" role="alert">{escape(str(error))}</p>'
            yield (message, *[gr.skip()] * (outputs - 1)) if outputs > 1 else message
            raise gr.Error(str(error), visible=False, print_exception=False) from None

    return shown


def _quiet(progress: str = "hidden") -> dict[str, Any]:
    """Return the options of every event: no public API, and by default no progress overlay on the outputs."""
    return {"api_visibility": "private", "show_progress": progress}
