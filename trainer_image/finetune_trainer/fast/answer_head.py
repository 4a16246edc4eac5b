"""Log-probabilities of answers without what they do not need: padding, prompts twice, logits of prompts.

Put on one model, over TRL's fused head, by the trainers of preferences and by the online methods. TRL's
head projects every position to the vocabulary on a CPU, and rows keep their padding; here only positions
with a label are projected, in `finetune_kernels`, and rows that begin alike share their beginning where
the model's layers allow it. What does not fit stays TRL's: `install` tells what, and why. Asked with
`reference=True`, the model says in the same pass what it says without its adapter (`reference_lane`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor, nn
from trl.trainer.utils import FusedCausalLMOutput

from finetune_kernels.ops.frozen_head import TokenFigures, frozen_log_probs
from finetune_kernels.ops.linear_log_probs import linear_log_probs
from finetune_trainer.data.rows import IGNORED
from finetune_trainer.fast import head, prefix_attention, prefixes, reference_lane
from finetune_trainer.fast.prefixes import Packed
from finetune_trainer.fast.told import Fitted
from finetune_trainer.foreign import Foreign, Model

# Further scales of logits that some models have; all of them leave the head to TRL.
_SCALES = ("logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")

_NAMES = ("input_ids", "attention_mask", "labels")

Walk = Callable[[Model, dict[str, Foreign]], tuple[Tensor, ...]]
"""Runs a backbone; gives its last hidden states, and those of the reference where they are asked for."""


@dataclass
class Answers(FusedCausalLMOutput):
    """TRL's output, and what it was made from.

    Attributes:
        states: The hidden states that predict a label, shape (labels, width), if they were asked for.
        reference: As `log_probs`, of the model without its adapter, if they were asked for.
    """

    states: Tensor | None = None
    reference: Tensor | None = None


@dataclass(frozen=True)
class Scale:
    """What logits are scaled by.

    Attributes:
        temperature: Divides them.
        softcap: Their bound; 0 for none.
    """

    temperature: float
    softcap: float


def install(
    model: Model, longest: int, temperature: float = 1.0, *, entropies: bool = False
) -> Fitted:
    """Put the head on a model that has TRL's already.

    Args:
        model: A causal language model, or PEFT's wrapper of one.
        longest: Tokens of the longest row.
        temperature: Divides the logits, as in TRL's head.
        entropies: Whether they are looked at; else they may be given as 0.
    """
    inner, fitting = head.base_of(model), fits(model, longest)
    if fitting.against_head:
        return fitting
    shared = fitting.against_packing is None
    if shared:
        prefix_attention.install(inner)
    _patch(inner, temperature, shared=shared, entropies=entropies)
    return fitting


def fits(model: Model, longest: int) -> Fitted:
    """What `install` puts on a model, and what it leaves alone; the model may be an outline."""
    inner = head.base_of(model)
    if reason := _head_why_not(model, inner):
        return Fitted(against_head=reason)
    return Fitted(against_packing=prefix_attention.why_not(inner, longest))


def against_one_pass(model: Model, fitted: Fitted) -> str | None:
    """Why the model cannot be asked with `reference=True`; None if it can be.

    Args:
        model: The policy, before it is wrapped for several processes.
        fitted: What `install` said of it.
    """
    return fitted.against_head or reference_lane.why_not(model)


def head_is_frozen(model: Model) -> bool:
    """Whether no gradient of the output layer is wanted."""
    layer = head.base_of(model).get_output_embeddings()
    return not any(each.requires_grad for each in layer.parameters())


def _head_why_not(model: Model, inner: Model) -> str | None:
    config = inner.config.get_text_config()
    if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        return "the adapter lives in the prompt"
    if getattr(config, "is_encoder_decoder", False):
        return "the model has an encoder"
    layer = inner.get_output_embeddings()
    if type(layer) is not nn.Linear:
        return "the head has an adapter of its own, or is none"
    scales = [name for name in _SCALES if getattr(config, name, None) is not None]
    if scales or getattr(config, "output_router_logits", False):
        return "the model scales its logits, or routes tokens"
    return None


def _patch(model: Model, temperature: float, *, shared: bool, entropies: bool) -> None:
    def run(
        self: Model,
        fused_lm_head: bool,
        *,
        states: bool = False,
        reference: bool = False,
        **named: Foreign,
    ) -> Foreign:
        if not fused_lm_head or named.get("output_router_logits"):
            return before(fused_lm_head=fused_lm_head, **named)
        labels = named["labels"]
        wanted, walk = labels[:, 1:] != IGNORED, reference_lane.walk if reference else _policy
        hidden, *beside = _wanted_states(self, named, wanted, walk, shared=shared)
        asked, logs = labels[:, 1:][wanted], None
        if reference:
            # First, and let go of: the policy's turn is the peak of a step.
            with torch.no_grad():
                lane = beside.pop()
                logs = _figures(self, lane, asked, temperature, entropies=False).log_probs
                del lane
        figures = _figures(self, hidden, asked, temperature, entropies)
        found = _output(figures, wanted, hidden if states else None)
        found.reference = None if logs is None else _spread(logs, wanted)
        return found

    before = head.take_over(model, "fused_lm_head", run)


def _policy(model: Model, given: dict[str, Foreign]) -> tuple[Tensor]:
    return (model.base_model(**given).last_hidden_state,)


def _wanted_states(
    model: Model, named: dict[str, Foreign], wanted: Tensor, walk: Walk, *, shared: bool
) -> list[Tensor]:
    """The states that predict a label, of shape (labels, width), of each that `walk` gives."""
    if not shared:
        given = {name: value for name, value in named.items() if name != "labels"}
        return [each[:, :-1][wanted] for each in walk(model, given | {"use_cache": False})]
    ids, mask, labels = (named[name] for name in _NAMES)
    packed = prefixes.pack(ids, mask, prefixes.by_prompt(ids, mask, labels != IGNORED))
    places = packed.places[:, :-1][wanted]
    return [each.index_select(0, places) for each in _through(model, packed, walk)]


def packed_states(model: Model, packed: Packed) -> Tensor:
    """The last hidden states of a long row, shape (tokens, width).

    Args:
        model: With `prefix_attention` or `packed_attention` installed.
        packed: The row.

    Raises:
        RuntimeError: A layer has not asked how the row is divided.
    """
    return _through(model, packed, _policy)[0]


def _through(model: Model, packed: Packed, walk: Walk) -> list[Tensor]:
    given = {
        "input_ids": packed.ids,
        "position_ids": packed.positions,
        # A mask of four dimensions is taken as it is; the layout says what it does not.
        "attention_mask": packed.ids.new_ones(1, 1, 1, 1, dtype=torch.bool),
        "use_cache": False,
        "layout": packed.layout,
    }
    found = walk(model, given)
    if packed.layout.layers != model.config.num_hidden_layers:
        raise RuntimeError("a layer did not ask for the layout of its rows: it saw other answers")
    return [each[0] for each in found]


def _figures(
    model: Model, hidden: Tensor, labels: Tensor, temperature: float, entropies: bool
) -> TokenFigures:
    with head.output_layer(model) as layer:
        return _of_layer(layer, hidden, labels, temperature, entropies)


def _of_layer(
    layer: head.OutputLayer, hidden: Tensor, labels: Tensor, temperature: float, entropies: bool
) -> TokenFigures:
    scale = Scale(temperature, layer.softcap)
    hidden, weight, bias = head.in_one_dtype(hidden, layer)
    with torch.autocast(hidden.device.type, enabled=False):
        if not (torch.is_grad_enabled() and weight.requires_grad):
            return _frozen(hidden, weight, labels, bias, scale, entropies)
        given = (hidden, weight, labels, bias)
        logs = linear_log_probs(*given, temperature=scale.temperature, softcap=scale.softcap)
        if not entropies:
            return TokenFigures(logs, None)
        seen = _frozen(hidden.detach(), weight, labels, bias, scale, entropies)
    return TokenFigures(logs, seen.entropies)


def _frozen(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None,
    scale: Scale,
    entropies: bool,
) -> TokenFigures:
    return frozen_log_probs(
        hidden,
        weight.detach(),
        labels,
        None if bias is None else bias.detach(),
        temperature=scale.temperature,
        softcap=scale.softcap,
        entropies=entropies,
    )


def _output(figures: TokenFigures, wanted: Tensor, states: Tensor | None) -> Answers:
    """TRL's output; what nobody asks our runs about is 0 in it."""
    logs = _spread(figures.log_probs, wanted)
    nothing = torch.zeros_like(logs, requires_grad=False)
    return Answers(
        loss=-logs.sum() / wanted.sum().clamp(min=1),
        log_probs=logs,
        entropy=nothing if figures.entropies is None else _spread(figures.entropies, wanted),
        mean_logits=nothing,
        is_top1=nothing.bool(),
        label_mask=wanted,
        states=states,
    )


def _spread(values: Tensor, wanted: Tensor) -> Tensor:
    return values.new_zeros(wanted.shape).masked_scatter(wanted, values)
