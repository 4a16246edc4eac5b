"""Adapters of LoRA that start from the weights of the base and not from nothing.

Called by the recipes after `apply`. PiSSA (Meng et al. 2024, arXiv 2404.02948) starts at the largest
singular vectors of a weight W, OLoRA (Büyükakyüz 2024, arXiv 2406.01775) at its QR decomposition, and
both take that product away from W. Here W stays as it is and the product is subtracted in the forward
pass, W x + s B A x - s B0 A0 x: the same function and the same gradients, but without its adapter the
model is the base model, and the published adapter [B, -B0] [A; A0] of twice the rank works on the base
that everybody has. LoftQ (Li et al. 2023, arXiv 2310.08659) starts at what quantisation lost of W.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import LoraVariant
from peft.utils.integrations import dequantize_module_weight, get_bnb_param_type
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.tuning import Tuning
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import Foreign, Model
from finetune_trainer.model_files import ADAPTER, ADAPTER_CONFIG
from finetune_trainer.sanity import STARTS_ELSEWHERE

Factors = tuple[Tensor, Tensor]
"""A of shape (rank, inputs) and B of shape (outputs, rank), in float32."""

DEFAULT = "default"
_PREFIX = "base_model.model."
_A, _B = "start_A", "start_B"


class FromStart(LoraVariant):
    """The forward pass of an adapter less its start, in the very arithmetic of the published one.

    Both products are nearly as large as that of the base. Taken one after the other, each would be
    rounded, in bfloat16 by more than a step of training changes.
    """

    @staticmethod
    def forward(
        module: Foreign, active_adapter: str, x: Tensor, result: Tensor, **_: Foreign
    ) -> Tensor:
        """The base's result with the adapter's added."""
        kept = module.lora_dropout[active_adapter](x)
        inner = [module.lora_A[active_adapter](kept), linear(x, getattr(module, _A))]
        outer = [module.lora_B[active_adapter].weight, -getattr(module, _B)]
        product = linear(torch.cat(inner, dim=-1), torch.cat(outer, dim=1))
        return result + product * module.scaling[active_adapter]


def start(model: Model, tuning: Tuning, unquantized: Callable[[], Model]) -> Model:
    """Give the adapter the start of its variant.

    Args:
        model: With its adapter, on its device.
        tuning: The block of the spec.
        unquantized: Loads the base model as it is stored; asked for LoftQ alone.

    Raises:
        TrainerError: InvalidSpec if the rank is larger than a matrix, or nothing is quantised for LoftQ.
    """
    variant = tuning.lora.variant if tuning.lora else "Standard"
    if variant in ("PiSSA", "OLoRA"):
        factors = pissa if variant == "PiSSA" else olora
        for name, layer in _layers(model):
            _start_at(layer, factors, name)
    elif variant == "LoftQ":
        _make_up_all(model, unquantized())
    return model


def pissa(weight: Tensor, rank: int, scale: float) -> Factors:
    """Factors whose product, times `scale`, is the best approximation of a weight at this rank.

    Args:
        weight: Of shape (outputs, inputs).
        rank: Columns of B.
        scale: What the product is multiplied with in the forward pass.
    """
    left, sizes, right = torch.linalg.svd(weight.float(), full_matrices=False)
    roots = (sizes[:rank] / scale).sqrt()
    return roots[:, None] * right[:rank], left[:, :rank] * roots


def olora(weight: Tensor, rank: int, _: float) -> Factors:
    """Factors from a QR decomposition: the columns of B are orthonormal."""
    orthonormal, triangular = torch.linalg.qr(weight.float())
    return triangular[:rank].contiguous(), orthonormal[:, :rank].contiguous()


def convert(folder: Path, model: Model) -> None:
    """Rewrite a stored adapter for the base as everybody has it; nothing to do for other starts.

    Args:
        folder: Where PEFT stored the adapter.
        model: The trained model.
    """
    started = {name: layer for name, layer in _layers(model) if hasattr(layer, _A)}
    if not started:
        return
    tensors = load_file(folder / ADAPTER)
    for name, layer in started.items():
        a, b = (f"{_PREFIX}{name}.lora_{part}.weight" for part in "AB")
        tensors[a] = torch.cat([tensors[a], getattr(layer, _A).cpu()], dim=0)
        tensors[b] = torch.cat([tensors[b], -getattr(layer, _B).cpu()], dim=1)
    save_file(tensors, folder / ADAPTER, metadata={"format": "pt"})
    config = json.loads((folder / ADAPTER_CONFIG).read_text("utf-8"))
    config |= {"r": 2 * config["r"], "lora_alpha": 2 * config["lora_alpha"]}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config), "utf-8")


def _layers(model: Model) -> Iterator[tuple[str, Foreign]]:
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name.removeprefix(_PREFIX), module


@torch.no_grad()
def _start_at(layer: Foreign, factors: Callable[[Tensor, int, float], Factors], name: str) -> None:
    weight = _weight(layer.get_base_layer())
    a, b = factors(weight, _rank(layer, weight, name), layer.scaling[DEFAULT])
    _set(layer, a, b)
    # Not stored with the model: `convert` puts them into the published adapter.
    layer.register_buffer(_A, a.clone(), persistent=False)
    layer.register_buffer(_B, b.clone(), persistent=False)
    layer.lora_variant[DEFAULT] = FromStart()


def _make_up_all(model: Model, whole: Model) -> None:
    # T5's second feed-forward matrix, for one, is left as it is; its adapter starts at nothing.
    quantized = [
        (name, layer)
        for name, layer in _layers(model)
        if get_bnb_param_type(layer.get_base_layer().weight)
    ]
    if not quantized:
        message = (
            "`tuning.lora.variant`: LoftQ starts from what quantisation lost; nothing is quantised"
        )
        raise TrainerError(Reason.INVALID_SPEC, message)
    for name, layer in quantized:
        _make_up(layer, _weight(whole.get_submodule(name)), name)
    setattr(model, STARTS_ELSEWHERE, True)


@torch.no_grad()
def _make_up(layer: Foreign, weight: Tensor, name: str) -> None:
    held = dequantize_module_weight(layer.get_base_layer())
    lost = weight.to(held.device).float() - held.reshape(weight.shape).float()
    _set(layer, *pissa(lost, _rank(layer, weight, name), layer.scaling[DEFAULT]))


def _set(layer: Foreign, a: Tensor, b: Tensor) -> None:
    layer.lora_A[DEFAULT].weight.copy_(a)
    layer.lora_B[DEFAULT].weight.copy_(b)


def _weight(module: Foreign) -> Tensor:
    """Of shape (outputs, inputs); GPT-2 stores the other way round."""
    weight: Tensor = module.weight.detach()
    return weight.T if isinstance(module, Conv1D) else weight


def _rank(layer: Foreign, weight: Tensor, name: str) -> int:
    rank: int = layer.r[DEFAULT]
    if rank > min(weight.shape):
        message = (
            f"`tuning.lora.rank`: {rank} is more than {name} has, a matrix of {tuple(weight.shape)}; "
            "this variant starts from its decomposition"
        )
        raise TrainerError(Reason.INVALID_SPEC, message, "Take a lower rank, or another variant.")
    return rank
