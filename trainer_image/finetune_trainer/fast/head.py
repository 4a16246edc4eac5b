"""A causal model in two parts: the backbone, and the layer that turns hidden states into logits.

`install` lets one model be called as `model(**batch, read=reader)`: the backbone runs, and `reader` gets
its hidden states with the output layer, so that logits need never exist for all positions. The call goes
through whatever wraps the model (PEFT, DDP, FSDP), as any other. Called by recipes before their trainer is
built; what is done with the hidden states is up to the readers (`fast.loss`). Patches one instance, by
`take_over`, as `answer_head` and `score_head` do.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from finetune_trainer import zero
from finetune_trainer.foreign import Foreign, Model
from finetune_trainer.sharded import unwrapped

# Holds the forward as it was.
_INSTALLED = "forward_without_reader"


@dataclass(frozen=True)
class OutputLayer:
    """What makes logits of hidden states: softcap * tanh((h W^T + b) / softcap).

    Attributes:
        weight: `(V, H)`, whole also where the model is sharded.
        bias: `(V,)` or None.
        softcap: 0 for none.
    """

    weight: Tensor
    bias: Tensor | None
    softcap: float


Reader = Callable[[Tensor, Tensor, OutputLayer], Foreign]
"""Takes hidden states `(B, T, H)`, labels `(B, T)` as the model was given them, and the output layer."""


def base_of(model: Model) -> Model:
    """The language model itself, within DDP and PEFT."""
    plain = unwrapped(model)
    return plain.get_base_model() if isinstance(plain, PeftModel) else plain


def installed(model: Model) -> bool:
    """Whether the model can be called with `read`."""
    return hasattr(base_of(model), _INSTALLED)


def why_not(model: Model) -> str | None:
    """Why this model cannot be taken apart; None if it can be."""
    base = base_of(model)
    layer = base.get_output_embeddings()
    if type(layer) is not nn.Linear:
        # An adapter on it, or whole tuning beside a copy, has a forward of its own.
        kind = type(layer)
        return f"the output layer is {kind.__name__} of {kind.__module__.partition('.')[0]}"
    text = base.config.get_text_config()
    if getattr(text, "num_local_experts", None) or getattr(text, "num_experts", None):
        return "a mixture of experts has a loss of its own beside"
    return None


def install(model: Model) -> None:
    """Let the model be called with `read`; all other calls are as before.

    Args:
        model: For which `why_not` knows nothing; wrapped by PEFT or not.
    """
    base = base_of(model)
    if installed(base):
        return
    setattr(base, _INSTALLED, take_over(base, "read", _read))


def _read(base: Model, read: Reader, *, labels: Tensor, **named: Foreign) -> Foreign:
    # Looked up at each call: FSDP and PEFT exchange both after `install`.
    found = base.base_model(**{**named, "use_cache": False})
    with output_layer(base) as layer:
        return read(found.last_hidden_state, labels, layer)


def take_over(base: Model, keyword: str, run: Callable[..., Foreign]) -> Callable[..., Foreign]:
    """Let `run` answer the calls of one model that give a keyword; all others go where they went.

    Args:
        base: A model without wrappers.
        keyword: That no other call of it has.
        run: Gets the model, what the keyword gave, and everything else by its name.

    Returns:
        The forward as it was.
    """
    before: Callable[..., Foreign] = base.forward

    # With the signature of the class, against which `generate` checks its arguments.
    @functools.wraps(type(base).forward)
    def forward(self: Model, *arguments: Foreign, **named: Foreign) -> Foreign:
        if keyword not in named:
            return before(*arguments, **named)
        return run(self, named.pop(keyword), **named)

    base.forward = MethodType(forward, base)
    return before


def remove(model: Model) -> None:
    """Take `install` back; nothing else may have patched the forward since."""
    base = base_of(model)
    base.forward = getattr(base, _INSTALLED)
    delattr(base, _INSTALLED)


@contextmanager
def output_layer(base: Model) -> Iterator[OutputLayer]:
    """The layer of a language model that is not wrapped, with gradients to where it is sharded."""
    layer = base.get_output_embeddings()
    softcap = getattr(base.config.get_text_config(), "final_logit_softcapping", None)
    weight, bias = layer.weight, layer.bias
    with zero.reading(weight, bias):
        yield OutputLayer(_whole(weight), None if bias is None else _whole(bias), softcap or 0.0)


def _whole(parameter: Tensor) -> Tensor:
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter


def in_one_dtype(rows: Tensor, layer: OutputLayer) -> tuple[Tensor, Tensor, Tensor | None]:
    """Hidden states, weight and bias in the dtype of the product: autocast's, or the weight's."""
    device, dtype = rows.device.type, layer.weight.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    bias = layer.bias
    return rows.to(dtype), layer.weight.to(dtype), None if bias is None else bias.to(dtype)


def shifted(labels: Tensor) -> Tensor:
    """For each position the label that its hidden state predicts: the next one; -100 at the end."""
    return torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], -100)], 1)
