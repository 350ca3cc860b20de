"""Time several programs in turns, A B C A B C …, in one process, so that slow moments affect all of them.

Programs that are timed one after the other can differ because the speed of the machine changed in between. In turns,
they share the same conditions, and the ratio within a round varies less than either time. Medians and quartiles are
reported because disturbances can only make a run slower.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.benchmarks.equal import Unequal

PAUSE = 0.05
"""Seconds between turns. The thread pools of OpenBLAS and OpenMP keep spinning for up to 30 ms after their work, which
would take cores away from the next program."""

TURN = 0.3
"""Minimum length of a turn, in seconds; short calls are repeated."""


class Spread(NamedTuple):
    """The lower quartile, median and upper quartile of some values."""

    low: float
    median: float
    high: float


class Took(float):
    """Seconds that a program measured itself. If a call returns them, they are used instead of the time of the call.

    The startup of a separate process is then not included.
    """


@dataclass(frozen=True)
class Row:
    """One table row: minilora against one other program, or the reason why there is no measurement.

    Attributes
    ----------
    what, against : what was timed, and the other program
    ours, theirs : seconds per call, one value per round in order; with `unit`, a single value in that unit
    goal : the target for the ratio, or None
    tokens : tokens generated per call; if given, times are shown as tokens per second
    checked : what was found to be equal before timing
    refusal : why the two were not compared, if they were not
    unit : the unit of a quantity measured once, not necessarily a time; lower is better. Values are shown unconverted
    """

    what: str
    against: str
    ours: Sequence[float] = ()
    theirs: Sequence[float] = ()
    goal: float | None = None
    tokens: int | None = None
    checked: str = ""
    refusal: str = ""
    unit: str = ""

    @property
    def ratio(self) -> Spread:
        """How many times as fast minilora is: the ratio of the medians, and the quartiles of the ratios per round."""
        per_round = spread([theirs / ours for ours, theirs in zip(self.ours, self.theirs, strict=True)])
        return Spread(per_round.low, statistics.median(self.theirs) / statistics.median(self.ours), per_round.high)

    def record(self) -> dict[str, Any]:
        """Return the row for a JSON file, with times in milliseconds."""
        named: dict[str, Any] = {"what": self.what, "against": self.against, "checked": self.checked}
        if self.refusal:
            return {**named, "refusal": self.refusal}
        if self.unit:
            once = {"minilora": self.ours[0], "peer": self.theirs[0], "unit": self.unit}
            return {**named, **once, "times_as_low": self.ratio.median, "goal": self.goal}
        return {
            **named,
            "minilora_ms": {k: 1e3 * v for k, v in spread(self.ours)._asdict().items()},
            "peer_ms": {k: 1e3 * v for k, v in spread(self.theirs)._asdict().items()},
            "times_as_fast": self.ratio._asdict(),
            "rounds": len(self.ours),
            "goal": self.goal,
            "tokens": self.tokens,
        }


def interleave(
    programs: Mapping[str, Callable[[], object]],
    rounds: int,
    warm_up: int = 2,
    turn: float = TURN,
    pause: float = PAUSE,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return the seconds per call of each program, one value for each of `rounds` rounds.

    Parameters
    ----------
    programs : by name; each round runs them in this order. A call that returns `Took` counts as that many seconds
    warm_up : number of untimed calls of each program before the first round
    turn, pause : minimum seconds per turn, and seconds to wait before each turn
    """
    for program in programs.values():
        for _ in range(warm_up):
            program()
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            time.sleep(pause)
            begun = now = clock()
            calls, seconds = 0, 0.0
            while calls == 0 or now - begun < turn:
                before, result, now = now, program(), clock()
                seconds += result if isinstance(result, Took) else now - before
                calls += 1
            times[name].append(seconds / calls)
    return times


def compare(
    what: str,
    programs: Mapping[str, Callable[[], object]],
    rounds: int,
    goals: Mapping[str, float] | None = None,
    check: Callable[[], str] | None = None,
    tokens: int | None = None,
    turn: float = TURN,
) -> list[Row]:
    """Time all programs in turns; return a row for each program but the first, which is minilora's.

    `check` is called first. It verifies that all programs compute the same and returns a description of what it
    compared. If it raises Unequal, nothing is timed.
    """
    ours, *peers = programs
    goals = goals or {}
    try:
        checked = check() if check else ""
    except Unequal as unequal:
        return [Row(what, peer, goal=goals.get(peer), refusal=str(unequal)) for peer in peers]
    times = interleave(programs, rounds, turn=turn)
    return [Row(what, peer, times[ours], times[peer], goals.get(peer), tokens, checked) for peer in peers]


def spread(values: Sequence[float]) -> Spread:
    """Return the median and the quartiles; for a single value, all three are that value."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(low, median, high)


def table(rows: Sequence[Row], columns: int = 7) -> str:
    """Format the rows as a Markdown table: medians, with the quartiles in parentheses. Five columns omit the goals."""
    head = ["what", "minilora", "against", "its time", "times as fast", "goal", "equal before timing"]
    lines = [head, ["---"] * len(head), *map(_cells, rows)]
    return "\n".join(_line(line[:columns]) for line in lines)


def _cells(row: Row) -> list[str]:
    goal = "" if row.goal is None else f"≥ {row.goal:.2f}"
    if row.refusal:
        return [row.what, "", row.against, "", f"not compared: {row.refusal}", goal, row.checked]
    ratio = row.ratio
    times = f"**{ratio.median:.2f}**" + ("" if row.unit else f" ({ratio.low:.2f} to {ratio.high:.2f})")
    ours, theirs = (
        f"{values[0]:,.4g} {row.unit}" if row.unit else _time(values, row.tokens) for values in (row.ours, row.theirs)
    )
    return [row.what, ours, row.against, theirs, times, goal, row.checked]


def _time(seconds: Sequence[float], tokens: int | None) -> str:
    """Format the median and the quartiles: '26.8 ms (26.1 to 27.4)', or in tokens per second."""
    s = spread(seconds)
    if tokens is None:
        return f"{1e3 * s.median:,.1f} ms ({1e3 * s.low:,.1f} to {1e3 * s.high:,.1f})"
    return f"{tokens / s.median:,.0f} tokens/s ({tokens / s.high:,.0f} to {tokens / s.low:,.0f})"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
