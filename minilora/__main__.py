"""`python -m minilora` is the `minilora` command."""

import sys

from minilora.cli import main

sys.exit(main())
