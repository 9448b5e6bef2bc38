"""A take, and the names of the ways in which it can end."""

from dataclasses import dataclass, replace

import numpy as np

OK, RUNAWAY, LOOP, SILENCE, EARLY_STOP = "ok", "runaway", "loop", "silence", "early_stop"
FAILURES = (RUNAWAY, LOOP, SILENCE, EARLY_STOP)
LONGEST_CYCLE = 8  # codes; a phone that is held repeats fewer


@dataclass(frozen=True)
class Take:
    """One candidate.

    Attributes:
        codes: int32 [T].
        stopped: whether it ended by END; if not, it ran into its length bound or was stopped.
        log_probability: nats, sum over codes and END of the model's own distribution (temperature
            1, nothing cut off, no bounds) over the speech ids and END.
        discarded: tokens of the takes that were drawn in its place before, and failed.
        doomed: the failure for which it was stopped while it was drawn: "loop", "silence" or "".
        redrawn: how many those were.
    """

    codes: np.ndarray
    stopped: bool
    log_probability: float
    discarded: int = 0
    doomed: str = ""
    redrawn: int = 0

    @property
    def tokens(self) -> int:
        """What was drawn for it: codes, END and what was discarded."""
        return len(self.codes) + self.stopped + self.discarded

    def instead_of(self, old: "Take") -> "Take":
        """This take, drawn in the place of one that failed."""
        return replace(self, discarded=old.tokens, redrawn=old.redrawn + 1)
