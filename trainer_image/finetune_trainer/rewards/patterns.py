"""Regular expressions that end: compiled within bounds, matched under a time limit.

Used by the reward functions. Python's `re` can backtrack for hours on a text of fifty characters, and
a policy finds such texts; the `regex` package takes a limit. A match that is not found in time counts
as none.
"""

import logging
from functools import lru_cache

import regex

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.errors import TrainerError

logger = logging.getLogger(__name__)

MAX_PATTERN = 1024
# Seconds. A sound pattern needs microseconds, and a batch has hundreds of answers.
TIME_LIMIT = 0.05


def check(pattern: str, where: str) -> None:
    """See that a pattern can be compiled.

    Raises:
        TrainerError: InvalidSpec naming the field `where`.
    """
    if len(pattern) > MAX_PATTERN:
        message = f"`{where}`: a pattern has at most {MAX_PATTERN} characters, not {len(pattern)}"
        raise TrainerError(Reason.INVALID_SPEC, message)
    try:
        _compiled(pattern)
    except (regex.error, OverflowError, RecursionError) as error:
        message = f"`{where}`: the pattern {pattern!r} cannot be read: {error}"
        raise TrainerError(Reason.INVALID_SPEC, message) from None


def find(pattern: str, text: str) -> regex.Match[str] | None:
    """The first match anywhere in the text; `.` matches line breaks too."""
    try:
        return _compiled(pattern).search(text, timeout=TIME_LIMIT)
    except TimeoutError:
        _warn(pattern)
        return None


def full_match(pattern: str, text: str) -> bool:
    """Whether the pattern matches the whole text; `.` matches line breaks too."""
    try:
        return _compiled(pattern).fullmatch(text, timeout=TIME_LIMIT) is not None
    except TimeoutError:
        _warn(pattern)
        return False


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> regex.Pattern[str]:
    return regex.compile(pattern, flags=regex.DOTALL | regex.VERSION0)


def _warn(pattern: str) -> None:
    logger.warning(
        "the pattern %r found no match in %g s and was given up: no match", pattern, TIME_LIMIT
    )
