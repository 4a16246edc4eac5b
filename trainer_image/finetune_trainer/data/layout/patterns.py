"""Shell patterns over paths: `*` within a part of a path, `**` across parts, `?` and `[...]`.

Used by `data.layout.card`. Patterns come from strangers, so their length and their stars are bounded.
"""

import re
from collections.abc import Sequence

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.errors import TrainerError

_MAX_LENGTH = 500
_MAX_STARS = 8
_TOKEN = re.compile(r"\*\*/|\*\*|\*|\?|\[[!^]?\]?[^\]/]*\]|.", re.DOTALL)
_MEANINGS = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def matching(pattern: str, names: Sequence[str], where: str) -> list[str]:
    """The names that a pattern fits; a folder's name fits all files in it.

    Raises:
        TrainerError: DataInvalid if the pattern is beyond reason.
    """
    if len(pattern) > _MAX_LENGTH or pattern.count("*") > _MAX_STARS:
        message = f"{where}: the pattern {pattern[:80]!r} has too many stars or is too long"
        raise TrainerError(Reason.DATA_INVALID, message)
    try:
        fits = re.compile("".join(_translated(part) for part in _TOKEN.findall(pattern)))
    except re.error:
        raise TrainerError(Reason.DATA_INVALID, f"{where}: bad pattern {pattern[:80]!r}") from None
    folder = pattern.rstrip("/") + "/"
    return [name for name in names if fits.fullmatch(name) or name.startswith(folder)]


def _translated(part: str) -> str:
    if part in _MEANINGS:
        return _MEANINGS[part]
    if part.startswith("[") and len(part) > 1:
        inside = part[1:-1].replace("\\", r"\\")
        return f"[^{inside[1:]}]" if inside[:1] in ("!", "^") else f"[{inside}]"
    return re.escape(part)
