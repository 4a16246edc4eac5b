"""How many layers compute their activations again, by the memory that there is."""

import pytest

from finetune_trainer.recomputation import LayerMemory, Recomputation, plan


@pytest.mark.parametrize(
    ("room", "planned"),
    [
        # Four layers that keep 100 or 10, beside a loss of 50.
        (450, (0, False)),
        # 10 + 300 + 50
        (449, (1, False)), (360, (1, False)),
        (359, (2, False)), (270, (2, False)),
        # 30 + 100 + 50
        (180, (3, False)),
        # 40, and one layer that is computed again once the loss is done with
        (179, (4, False)), (140, (4, False)),
        # Two inputs on their way
        (139, (4, True)), (120, (4, True)), (-1, (4, True)),
    ],
)  # fmt: skip
def test_no_more_layers_than_must(room: int, planned: tuple[int, bool]) -> None:
    layers = LayerMemory(layers=4, kept=100, block_input=10, loss=50)
    found = plan(layers, room, offload=True)
    assert (found.layers, found.offload) == planned
    if room >= 120:
        assert layers.total(found.layers, offload=found.offload) <= room
    assert not plan(layers, room).offload


def test_the_backward_pass_of_a_layer_needs_room_too() -> None:
    layers = LayerMemory(layers=4, kept=100, block_input=10, loss=50, working=70)
    # More than the loss, which is over by then.
    assert layers.total(0) == 400 + 70
    assert layers.total(3) == 30 + max(100 + 70, 100 + 70)
    assert layers.total(4) == 40 + max(50, 100 + 70)
    assert layers.total(4, offload=True) == 20 + 100 + 70


def test_layers_of_an_encoder_keep_less_and_come_first() -> None:
    layers = LayerMemory(layers=4, kept=100, block_input=10, light=2, kept_light=40)
    found = [layers.total(recomputed) for recomputed in range(5)]
    assert found == [80 + 200, 10 + 40 + 200, 20 + 200, 30 + 100, 40 + 100]


def test_a_plan_in_words() -> None:
    words = [str(Recomputation(layers, 30)) for layers in (0, 12, 30)]
    assert words == ["Disabled", "12 of 30 layers", "Enabled"]
    assert str(Recomputation(30, 30, offload=True)) == "Offload"
