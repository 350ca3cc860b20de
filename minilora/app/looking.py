"""The third tab: the parameter counts of a voice, and a check that merging changes the logits only by rounding."""

from __future__ import annotations

from pathlib import Path

from minilora import lora
from minilora.assets import BASE
from minilora.data import ByteTokenizer
from minilora.nn import Llama

READ = "The king of the people said unto them: the state of our Union is strong, and so are we.\n"


def open_voice(folder: Path) -> Llama:
    """Return the packaged base with one voice attached and active."""
    model = Llama.from_pretrained(BASE)
    lora.load_adapter(model, folder)
    model.eval()
    return model


def parameters(folder: Path) -> str:
    """Return the parameter table by module, as HTML."""
    report = lora.report(open_voice(folder))
    rows = [
        _row(row.path, _shape(row.modules, row.shape), row.trainable, row.total, shared=row.shared)
        for row in report.rows
    ]
    rows.append(_row("all", "", report.trainable, report.total))
    return (
        '<table class="parameters"><caption>Parameters by module. Only A and B were trained; the base is frozen.'
        '</caption><thead><tr><th scope="col">module</th><th scope="col">weight</th><th scope="col">trained</th>'
        '<th scope="col">total</th><th scope="col">percent</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _shape(modules: int, shape: tuple[int, ...]) -> str:
    """Return `6 × 192×192` for six modules of this shape, with a line-break opportunity for narrow screens."""
    return (f"{modules} × <wbr>" if modules > 1 else "") + "×".join(map(str, shape))


def _row(path: str, shape: str, trained: int, total: int, shared: bool = False) -> str:
    """Return a table row. `shared` means that the weight is tied to the embedding and counted there."""
    percent = "shared" if shared else f"{100 * trained / total:.2f}%"
    path = path.replace(".", ".<wbr>").replace("_", "_<wbr>")  # line-break opportunities for narrow screens
    return (
        f'<tr><th scope="row">{path}</th><td>{shape}</td><td>{trained:,}</td><td>{total:,}</td><td>{percent}</td></tr>'
    )


def merging(folder: Path) -> str:
    """Merge and unmerge this voice on a copy; return the measured differences as HTML."""
    ids = ByteTokenizer().encode(READ)[None]  # (1, T)
    check = lora.merge_check(open_voice(folder), ids)
    restored = "bit-for-bit identical" if check.restored else "NOT identical"
    return (
        '<table class="merging"><caption>W + s·BA is one matrix with the shape of W</caption>'
        f'<tr><th scope="row">max |Δlogit| in float32</th><td>{check.single:.1e}</td></tr>'
        f'<tr><th scope="row">max |Δlogit| in float64</th><td>{check.double:.1e}</td></tr>'
        f'<tr><th scope="row">weights after unmerging, vs. the originals</th><td>{restored}</td></tr></table>'
        "<p>After merging, the model computes the same logits as with the voice attached, at no extra cost. The "
        "difference is only rounding error, which is why it is much smaller in float64.</p>"
    )
