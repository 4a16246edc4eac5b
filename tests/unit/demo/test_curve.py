"""The loss curve of the demo."""

from pathlib import Path

from demo.curve import Curve

LOG = '{"step": 1, "loss": 3.0}\n\n{"step": 2, "evaluationLoss": 2.5}\n{"step": 2, "loss": 2.0}\n'


def test_entries_without_a_training_loss_are_left_out() -> None:
    assert Curve.read(LOG) == Curve([1, 2], [3.0, 2.0])


def test_the_terminal_shows_the_range() -> None:
    drawn = Curve([1, 2, 3], [3.0, 2.5, 1.0]).text()
    assert "3.00" in drawn
    assert "1.00" in drawn


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    Curve([1, 2], [3.0, 2.0]).save(tmp_path / "a/loss.png", (3.0, 1.0))
    assert (tmp_path / "a/loss.png").read_bytes().startswith(b"\x89PNG")
