"""Time several programs in turns, A B C A B C …, in one process: what slows the machine down slows all of them.

Two programs timed one after the other can differ because a fan came on in between. Taken in turns they share the
machine's moods, and the ratio within a round is steadier than either time. Medians and quartiles are reported, because
disturbances only ever make a run slower.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.benchmarks.equal import Unequal

PAUSE = 0.05
"""Seconds between turns. The thread pools of OpenBLAS and OpenMP go on spinning for up to 30 ms after their work, and
would take the cores from whoever comes next."""

TURN = 0.3
"""Seconds that a turn lasts at least: short calls are repeated."""


class Spread(NamedTuple):
    """The middle half of some numbers."""

    low: float
    median: float
    high: float


class Took(float):
    """What a program returns that has measured its own work, in seconds: these are counted, and not those of the call.

    A process of its own is then not timed for its start.
    """


@dataclass(frozen=True)
class Row:
    """One line of a table: minilora against one peer, or why there is no number.

    Attributes
    ----------
    what, against : what was timed, and who the peer is
    ours, theirs : seconds a call, one number a round, in the order of the rounds; with `unit` what it says
    goal : the least ratio that is hoped for; None where none is named
    tokens : how many tokens a call writes; times are then shown as tokens per second
    checked : what was seen to be equal before anything was timed
    refusal : why the two are not compared, where they are not
    unit : of what was measured a single time, and may be no time; less of it is better. Shown as it is
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
        """How many times faster minilora is: the ratio of the medians, and the quartiles of the rounds' own ratios."""
        per_round = spread([theirs / ours for ours, theirs in zip(self.ours, self.theirs, strict=True)])
        return Spread(per_round.low, statistics.median(self.theirs) / statistics.median(self.ours), per_round.high)

    def record(self) -> dict[str, Any]:
        """The row for a JSON file, times in milliseconds."""
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
    """Seconds a call of each program, one number for each of `rounds` rounds.

    Parameters
    ----------
    programs : by name; in each round they take their turns in this order. One that returns `Took` is believed
    warm_up : calls of each that are not timed
    turn, pause : seconds that a turn lasts at least, and that are waited before it
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
    """Time all programs in turns; a row for each peer. The first program is minilora's, the others are the peers.

    `check` sees first that they compute the same, and says what it saw; where it raises Unequal, nothing is timed.
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
    """The median and the quartiles around it; of a single number, that number three times."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(low, median, high)


def table(rows: Sequence[Row], columns: int = 7) -> str:
    """The rows in Markdown: medians, and the middle half of the rounds in brackets. Five columns: no goals."""
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
    """'26.8 ms (26.1 to 27.4)', or tokens per second."""
    s = spread(seconds)
    if tokens is None:
        return f"{1e3 * s.median:,.1f} ms ({1e3 * s.low:,.1f} to {1e3 * s.high:,.1f})"
    return f"{tokens / s.median:,.0f} tokens/s ({tokens / s.high:,.0f} to {tokens / s.low:,.0f})"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
