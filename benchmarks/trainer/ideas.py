"""What would come next for a goal that is not met: written by hand, after reading the profile.

Shown on the page beside the row that misses its goal. A unit test refuses an idea whose row is gone.
"""

from trainer.figures import Kind

NONE_YET = "no idea is written down yet"

IDEAS: dict[tuple[str, Kind], str] = {}
"""By case and kind of goal."""
