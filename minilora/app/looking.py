"""The third tab: how few numbers a voice is, and that merging it changes the scores by rounding alone."""

from __future__ import annotations

from pathlib import Path

from minilora import lora
from minilora.assets import BASE
from minilora.data import ByteTokenizer
from minilora.nn import Llama

READ = "The king of the people said unto them: the state of our Union is strong, and so are we.\n"


def open_voice(folder: Path) -> Llama:
    """The packaged base with one voice, which acts."""
    model = Llama.from_pretrained(BASE)
    lora.load_adapter(model, folder)
    model.eval()
    return model


def parameters(folder: Path) -> str:
    """The table of parameters, by module."""
    report = lora.report(open_voice(folder))
    rows = [
        _row(row.path, _shape(row.modules, row.shape), row.trainable, row.total, shared=row.shared)
        for row in report.rows
    ]
    rows.append(_row("all", "", report.trainable, report.total))
    return (
        '<table class="parameters"><caption>Parameters, by module. Only A and B were trained; the base is frozen.'
        '</caption><thead><tr><th scope="col">module</th><th scope="col">weight</th><th scope="col">trained</th>'
        '<th scope="col">total</th><th scope="col">percent</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _shape(modules: int, shape: tuple[int, ...]) -> str:
    """`6 × 192×192` for six modules of this shape; a narrow screen may break it."""
    return (f"{modules} × <wbr>" if modules > 1 else "") + "×".join(map(str, shape))


def _row(path: str, shape: str, trained: int, total: int, shared: bool = False) -> str:
    """`shared`: the weight is the embedding's, where it has been counted."""
    percent = "shared" if shared else f"{100 * trained / total:.2f} %"
    path = path.replace(".", ".<wbr>").replace("_", "_<wbr>")  # where a narrow screen may break it
    return (
        f'<tr><th scope="row">{path}</th><td>{shape}</td><td>{trained:,}</td><td>{total:,}</td><td>{percent}</td></tr>'
    )


def merging(folder: Path) -> str:
    """What merging this voice changes, measured."""
    ids = ByteTokenizer().encode(READ)[None]  # (1, T)
    check = lora.merge_check(open_voice(folder), ids)
    restored = "restored, bit for bit" if check.restored else "NOT restored"
    return (
        '<table class="merging"><caption>W + s·BA is one matrix like W</caption>'
        f'<tr><th scope="row">max |Δlogit| in float32</th><td>{check.single:.1e}</td></tr>'
        f'<tr><th scope="row">max |Δlogit| in float64</th><td>{check.double:.1e}</td></tr>'
        f'<tr><th scope="row">every weight, after unmerging</th><td>{restored}</td></tr></table>'
        "<p>Merged into the weights, the voice writes what it wrote beside them and costs nothing extra: the scores "
        "differ by rounding alone, which is why float64 makes the difference smaller.</p>"
    )
