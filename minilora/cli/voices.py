"""`minilora voices`: list the packaged voices."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from minilora.assets import VOICES
from minilora.cli import options
from minilora.voices import voices


def add(commands: Any) -> None:
    parser = options.command(commands, "voices", "list the packaged voices and their losses", "minilora voices")
    parser.set_defaults(run=run)


def run(flags: Namespace) -> None:
    print("voice         own corpus     base corpora   generates")
    for voice in voices():
        f = voice.metrics
        print(
            f"{voice.name:12}  {f['before']:.3f} → {f['after']:.3f}  {f['base_off']:.3f} → {f['base_on']:.3f}  "
            f"{f['description']}"
        )
    print("Losses are on held-out text, in nats per character: without → with the voice.")
    print(f"Try: minilora compare --voices base,shakespeare. Model cards: {VOICES / '*' / 'README.md'}")
