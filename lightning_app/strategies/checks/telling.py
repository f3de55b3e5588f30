"""Lines for the user on stderr: not as warnings, which many programs switch off."""

import sys

from lightning.pytorch.utilities import rank_zero_only

NUM_NAMED = 2  # buffers, attributes, methods


class TellOnce:
    """Prints a line, by the first rank, and only once."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def __call__(self, line: str, subject: str | None = None) -> None:
        """Print a line.

        Args:
            line: What is to be known.
            subject: Of lines on one subject only the first is printed; `None`: the line itself.
        """
        subject = line if subject is None else subject
        if subject not in self._told:
            self._told.add(subject)
            rank_zero_only(print)(line, file=sys.stderr)


def listed(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - NUM_NAMED
    return ", ".join(names[:NUM_NAMED]) + (f" and {more} more" if more > 0 else "")
