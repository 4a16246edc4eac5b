"""The policy and its reference in one pass: each layer runs for both before the next one is read.

The reference is the model without its adapter. Asked by itself, it is a second walk through all weights; here
it is a lane beside the policy's. While the model runs, each layer's forward first takes the lane's hidden
states, without gradients, with the adapters of that layer off and the layer in evaluation mode, and then the
policy's, as ever. So a layer's weights are gathered once and read while they are at hand (a base of 4 bits is
dequantised by each), masks and rotary embeddings are made once, and the backward pass knows nothing of the
lane: what it computes again is the forward beneath. The products are those of two passes, and so are all
numbers, to the bit.

Called by `answer_head`; `why_not` by the trainers that ask a reference in each step. Forwards are exchanged
on the instances of one model, for the time of a call. Does not know heads, losses or batches.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor, nn

from finetune_trainer.fast.head import base_of
from finetune_trainer.fast.recompute import layers_of
from finetune_trainer.fast.switched_parts import SWITCHED, Backbone, Part, parts_of, turn
from finetune_trainer.foreign import Foreign, Model
from finetune_trainer.sharded import unwrapped

_TRIED = 8


@dataclass
class _Lane:
    """Where the reference is, while the model runs.

    Attributes:
        states: Its hidden states after the last layer that ran; None before the first.
        policy: What that layer gave the policy.
        layers: How many layers ran.
        closed: Whether what stands after the layers has run too.
    """

    states: Tensor | None = None
    policy: Tensor | None = None
    layers: int = 0
    closed: bool = False

    def layer(self, part: Part, forward: Callable[..., Foreign]) -> Callable[..., Foreign]:
        """The forward of a layer, for both."""

        def run(hidden: Tensor, *rest: Foreign, **named: Foreign) -> Foreign:
            self._require(hidden)
            layout = named.get("layout")
            before = _asked(layout)
            beside = hidden.detach() if self.states is None else self.states.to(hidden.dtype)
            # First, so that its working memory is free again when the policy begins to keep things.
            with part.before_training():
                self.states = _states(forward(beside, *rest, **named))
            asked = _asked(layout) - before
            if layout is not None:
                # Counted for one model, by whoever checks that every layer has asked.
                layout.layers = before
            found = forward(hidden, *rest, **named)
            if _asked(layout) - before != asked:
                raise RuntimeError("a layer asked for the layout of its rows for one of both alone")
            self.policy, self.layers = _states(found), self.layers + 1
            return found

        return run

    def other(self, part: Part, forward: Callable[..., Foreign]) -> Callable[..., Foreign]:
        """The forward of what is no layer: for both, if it takes what the last layer gave."""

        def run(*given: Foreign, **named: Foreign) -> Foreign:
            if self.policy is None or not given or not _same(given[0], self.policy):
                return forward(*given, **named)
            with part.before_training():
                self.states = forward(self.states, *given[1:], **named)
            self.policy, self.closed = forward(*given, **named), True
            return self.policy

        return run

    def end(self, states: Tensor, layers: int) -> Tensor:
        """The hidden states of the reference, once the model gave these of the policy."""
        if self.layers != layers or self.states is None or not _same(states, self.policy):
            raise RuntimeError(
                f"policy and reference did not go the same way: {self.layers} of {layers} layers"
            )
        return self.states.view_as(states)

    def _require(self, hidden: Tensor) -> None:
        if self.closed or (self.policy is not None and not _same(hidden, self.policy)):
            raise RuntimeError("something changed the hidden states of the policy between layers")


def walk(model: Model, given: dict[str, Foreign]) -> tuple[Tensor, Tensor]:
    """The last hidden states of the policy, and those of the model without its adapter.

    Args:
        model: A language model without wrappers, for which `why_not` knows nothing.
        given: What its backbone takes; may hold a layout, whose layers then count those of the policy.

    Returns:
        Both of the shape of the backbone's `last_hidden_state`; the latter without gradients.

    Raises:
        RuntimeError: The hidden states took a way that is not known.
    """
    parts = parts_of(model)
    lane = _Lane()
    if not parts.enters_alike:
        lane.states = _entry(parts, given)
    with ExitStack() as stack:
        for part in parts.layers:
            stack.enter_context(_exchanged(part, lane.layer))
        for part in parts.others:
            stack.enter_context(_exchanged(part, lane.other))
        states: Tensor = parts.model(**given).last_hidden_state
    return states, lane.end(states, len(parts.layers))


def _entry(parts: Backbone, given: dict[str, Foreign]) -> Tensor:
    """What the first layer gets before training: the model runs with layers that do nothing."""
    found: list[Tensor] = []

    def passes(_part: Part, _forward: Callable[..., Foreign]) -> Callable[..., Foreign]:
        def run(hidden: Tensor, *_: Foreign, **__: Foreign) -> Tensor:
            found.append(hidden)
            return hidden

        return run

    with ExitStack() as stack:
        for part in parts.layers:
            stack.enter_context(_exchanged(part, passes))
        for part in parts.others:
            stack.enter_context(part.before_training())
        stack.enter_context(torch.no_grad())
        parts.model(**given)
    return found[0]


@contextmanager
def _exchanged(
    part: Part, made: Callable[[Part, Callable[..., Foreign]], Callable[..., Foreign]]
) -> Iterator[None]:
    """The forward of one instance exchanged for another that knows it."""
    own = vars(part.module).get("forward")
    part.module.forward = made(part, part.module.forward)
    try:
        yield
    finally:
        if own is None:
            del part.module.forward
        else:
            part.module.forward = own


def why_not(model: Model) -> str | None:
    """Why this model and its reference take two passes; None if one does.

    Tried on a few tokens, which all processes must do alike.

    Args:
        model: The policy, wrapped by PEFT or not, before it is wrapped for several processes.
    """
    plain, base = unwrapped(model), base_of(model)
    if not isinstance(plain, PeftModel):
        return "no adapter can be switched off"
    if plain.active_peft_config.is_prompt_learning:
        return "the adapter lives in the prompt"
    if not any(isinstance(each, SWITCHED) for each in base.modules()):
        return "the adapter is no part of the model's layers"
    layers = layers_of(base.base_model)
    stacks = [each for each in base.base_model.children() if isinstance(each, nn.ModuleList)]
    if not layers or layers not in [list(stack) for stack in stacks] or base.base_model is base:
        return "its layers cannot be told apart"
    return _tried(plain, base)


@torch.no_grad()
def _tried(policy: Model, base: Model) -> str | None:
    """What a few tokens tell: both ways must say the same."""
    device = base.get_input_embeddings().weight.device
    ids = (
        torch.arange(_TRIED, device=device).unsqueeze(0) % base.config.get_text_config().vocab_size
    )
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    training = [each for each in policy.modules() if each.training]
    try:
        turn(training, [], to=False)
        both = walk(base, given)
        alone = [base.base_model(**given).last_hidden_state]
        with policy.disable_adapter():
            alone.append(base.base_model(**given).last_hidden_state)
    except (RuntimeError, TypeError) as error:
        return f"its layers are not walked as others are: {error}"[:300]
    finally:
        turn(training, [], to=True)
    if not all(map(torch.equal, both, alone)):
        return "policy and reference said something else on a few tokens than in two passes"
    return None


def _states(found: Foreign) -> Tensor:
    # Layers of older versions of transformers return a tuple.
    states: Tensor = found[0] if isinstance(found, tuple) else found
    return states


def _asked(layout: Foreign) -> int:
    return 0 if layout is None else int(layout.layers)


def _same(one: Foreign, other: Tensor | None) -> bool:
    """Whether two tensors are the same numbers; wrappers may have cast them, or taken a view."""
    if not isinstance(one, Tensor) or other is None or one.numel() != other.numel():
        return False
    return one.dtype != other.dtype or one.data_ptr() == other.data_ptr()
