"""What a person sees while a model trains: a bar on a terminal or in a notebook, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from minilora.messages import visible


class Progress:
    """Shows loss, validation loss, speed and the time left.

    Parameters
    ----------
    iters : the step at which the run ends
    start : the step at which it begins (not 0 for a resumed run)
    tokens_per_step : for the speed
    quiet : show nothing
    every : seconds between plain lines where there is no terminal
    """

    def __init__(self, iters: int, start: int, tokens_per_step: int, quiet: bool = False, every: float = 10.0) -> None:
        from tqdm.auto import tqdm

        self.iters, self.first, self.tokens_per_step, self.every = iters, start, tokens_per_step, every
        self.quiet, self.interactive = quiet, not quiet and (sys.stderr.isatty() or "ipykernel" in sys.modules)
        self._bar = tqdm(
            total=iters, initial=start, unit="step", disable=not self.interactive, leave=False, dynamic_ncols=True
        )
        self._began = self._spoke = time.monotonic()
        self._evaluating = 0.0  # seconds, which are no training
        self._validation = float("nan")

    def step(self, step: int, loss: float) -> None:
        """Step number `step` (counted from 1) has ended with training loss `loss`."""
        if self.interactive:
            self._bar.set_postfix_str(f"loss {loss:.3f}, val {self._validation:.3f}, {self._speed(step):,.0f} tok/s")
            self._bar.update()
        elif time.monotonic() - self._spoke >= self.every:
            self._say(self._line(step, f"loss {loss:.3f}"))

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The time inside this block does not count as training."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self._evaluating += time.monotonic() - begun

    def evaluation(self, step: int, loss: float, validation: float, sample: str = "") -> None:
        """The validation loss after `step` steps, and what the model writes now."""
        self._validation = validation
        trained = f"loss {loss:.3f}  " if step else ""
        self._say(self._line(step, f"{trained}val {validation:.3f}"))
        for line in visible(sample).splitlines():
            self._say(f"    {line}")

    def close(self) -> None:
        self._bar.close()

    def _line(self, step: int, losses: str) -> str:
        if step == self.first:
            return f"step {step:5d}/{self.iters}  {losses}"
        speed = self._speed(step)
        left = (self.iters - step) * self.tokens_per_step / speed
        return f"step {step:5d}/{self.iters}  {losses}  {speed:,.0f} tok/s  {_clock(left)} left"

    def _speed(self, step: int) -> float:
        """Tokens per second of training; evaluations, and the samples that they show, are left out."""
        seconds = time.monotonic() - self._began - self._evaluating
        return (step - self.first) * self.tokens_per_step / max(seconds, 1e-9)

    def _say(self, line: str) -> None:
        self._spoke = time.monotonic()
        if self.interactive:
            self._bar.write(line)
        elif not self.quiet:
            print(line, flush=True)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
