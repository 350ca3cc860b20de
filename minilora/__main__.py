"""Entry point of `python -m minilora`, which is the same as the `minilora` command."""

import sys

from minilora.cli import main

sys.exit(main())
