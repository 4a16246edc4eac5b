from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.errors import TrainerError
from finetune_trainer.sanity import (
    KnownAnswer,
    fingerprints,
    require_gradients,
    require_movement,
    require_reload,
)


class Adapter(nn.Module):
    """Two adapter tensors with PEFT's names, over a frozen base."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Module()
        self.layer.lora_A = nn.ModuleDict({"default": nn.Linear(4, 2, bias=False)})
        self.layer.lora_B = nn.ModuleDict({"default": nn.Linear(2, 4, bias=False)})
        self.base = nn.Linear(4, 4).requires_grad_(False)


@pytest.fixture
def model() -> Adapter:
    torch.manual_seed(0)
    return Adapter()


def move(model: Adapter, *names: str) -> None:
    with torch.no_grad():
        for name in names:
            getattr(model.layer, name)["default"].weight[0, 0] += 1e-4


def refusal(model: Adapter, before: dict[str, tuple[float, float]], steps: int) -> TrainerError:
    with pytest.raises(TrainerError) as caught:
        require_movement(model, before, steps)
    return caught.value


def test_one_changed_element_is_movement(model: Adapter) -> None:
    before = fingerprints(model)
    assert set(before) == {"layer.lora_A.default.weight", "layer.lora_B.default.weight"}
    move(model, "lora_A", "lora_B")
    require_movement(model, before, steps=3)


def test_a_tensor_that_stands_still_is_named(model: Adapter) -> None:
    before = fingerprints(model)
    move(model, "lora_A")
    error = refusal(model, before, 10)
    assert error.reason is Reason.SANITY_CHECK_FAILED
    assert "layer.lora_B.default.weight" in error.message


def test_a_may_stand_still_while_b_is_zero(model: Adapter) -> None:
    before = fingerprints(model)
    move(model, "lora_B")
    require_movement(model, before, steps=2)
    assert "lora_A" in refusal(model, before, 3).message


def test_a_run_without_steps_is_no_run(model: Adapter) -> None:
    before = fingerprints(model)
    move(model, "lora_A", "lora_B")
    assert refusal(model, before, 0).reason is Reason.SANITY_CHECK_FAILED


def test_weights_that_are_not_numbers(model: Adapter) -> None:
    before = fingerprints(model)
    with torch.no_grad():
        model.layer.lora_B["default"].weight[0, 0] = float("nan")
    assert refusal(model, before, 3).reason is Reason.DIVERGED


def test_gradients_must_be_everywhere(model: Adapter) -> None:
    model.layer.lora_A["default"].weight.grad = torch.zeros(2, 4)
    with pytest.raises(TrainerError, match="1 of 2 trainable tensors got no gradient") as caught:
        require_gradients(model)
    assert "lora_B" in caught.value.message
    model.layer.lora_B["default"].weight.grad = torch.zeros(4, 2)
    require_gradients(model)


def test_a_known_first_loss_is_held_to() -> None:
    known = KnownAnswer(loss=0.6931, tolerance=1e-3, why="ln 2")
    known.check(0.6929)
    with pytest.raises(TrainerError) as caught:
        known.check(0.70)
    assert caught.value.reason is Reason.SANITY_CHECK_FAILED
    assert "0.7000, but must be 0.6931" in caught.value.message
    with pytest.raises(TrainerError):
        known.check(float("nan"))


class Saved(nn.Linear):
    """A model whose saving loses the bias, as saving under sharding can."""

    def __init__(self, *, lossy: bool) -> None:
        super().__init__(3, 3)
        self.lossy = lossy

    def save_pretrained(self, folder: Path, state_dict: None) -> None:
        folder.mkdir(parents=True)
        kept = {n: p for n, p in self.state_dict().items() if not (self.lossy and n == "bias")}
        save_file(kept, folder / "model.safetensors")


def test_a_save_that_loses_a_tensor_is_told_after_one_step(tmp_path: Path) -> None:
    require_reload(Saved(lossy=False), tmp_path / "first")
    with pytest.raises(TrainerError, match=r"1 tensors do not survive .* bias"):
        require_reload(Saved(lossy=True), tmp_path / "first")
    assert not (tmp_path / "first").exists()
