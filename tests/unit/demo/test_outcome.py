"""What counts as learning, and the loss curve."""

import json

import pytest

from demo.curve import Curve
from demo.outcome import Verdict, split, verdict

LOG = "\n".join(
    json.dumps(entry)
    for entry in (
        {"step": 0, "evaluationLoss": 4.2},
        {"step": 1, "loss": 4.0, "learningRate": 1e-4},
        {"step": 2, "loss": 3.0, "learningRate": 1e-4},
        {"step": 2, "evaluationLoss": 2.9},
    )
)


@pytest.mark.parametrize(
    ("figures", "fell"),
    [((4, 2, 4, 2), True), ((4, 2, 4, 4), False), ((4, 4, 4, 2), False), ((2, 4, 2, 4), False)],
)
def test_both_measurements_must_have_fallen(figures, fell):
    assert Verdict(*figures).fell is fell


def test_a_loss_that_is_not_a_number_has_not_fallen():
    assert not Verdict(4, float("nan"), 4, float("nan")).fell


def test_the_verdict_takes_the_statuss_strings():
    status = {"evaluation": {"lossBefore": "4.18", "lossAfter": "1.55"}}
    result = verdict(status, {"lossBefore": 4.17, "lossAfter": 1.56})
    assert result == Verdict(4.18, 1.55, 4.17, 1.56)


def test_the_curve_holds_training_losses_only():
    assert Curve.read(LOG) == Curve([1, 2], [4.0, 3.0])


def test_the_curve_is_drawn_as_text_and_as_a_picture(tmp_path):
    curve = Curve.read(LOG)
    text = curve.text(60, 12)
    assert "training loss" in text
    assert "\x1b" not in text
    assert all(len(line) <= 60 for line in text.splitlines())
    curve.save(tmp_path / "new" / "loss.png", (4.2, 2.9))
    assert (tmp_path / "new" / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("uri", ["s3://bucket/a/b", "s3://bucket/a/b/"])
def test_uris_are_split(uri):
    assert split(uri) == ("bucket", "a/b")
