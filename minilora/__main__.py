"""Entry point of the command `minilora` and of `python -m minilora`."""

import sys


def main() -> int:
    """Run the command line and return its exit code. Ctrl-C is also handled while the modules are being loaded."""
    try:
        from minilora.cli import main as run

        return run()
    except KeyboardInterrupt:
        print("minilora: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
