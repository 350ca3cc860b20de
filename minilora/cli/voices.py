"""`minilora voices`: the styles that the package carries."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from minilora.assets import VOICES
from minilora.cli import options
from minilora.voices import voices


def add(commands: Any) -> None:
    parser = options.command(commands, "voices", "list the voices that the package carries", "minilora voices")
    parser.set_defaults(run=run)


def run(flags: Namespace) -> None:
    print("voice         its own text   the base's     writes")
    for voice in voices():
        f = voice.metrics
        print(
            f"{voice.name:12}  {f['before']:.3f} → {f['after']:.3f}  {f['base_off']:.3f} → {f['base_on']:.3f}  "
            f"{f['description']}"
        )
    print("Losses on held-out text in nats per character, without → with the voice.")
    print(f"Listen: minilora compare --voices base,shakespeare. The cards: {VOICES / '*' / 'README.md'}")
