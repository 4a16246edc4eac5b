"""How many layers compute their activations again in the backward pass, by the memory that there is. Pure.

Called by `recipes.sparing` where the spec leaves the choice open; `fast.recompute` installs the plan.
Computing all again costs a third of a step's arithmetic (Chen et al. 2016, arXiv 1604.06174), so no more
layers do than must.
"""

from dataclasses import dataclass

# Allocators waste a part, and kernels take workspaces: a fifth stays free.
USED = 0.8


@dataclass(frozen=True)
class Recomputation:
    """Which layers compute their activations again.

    Attributes:
        layers: How many, the first ones. In the backward pass their turn comes last, when the others keep
            nothing any more, so the one that is computed again finds room.
        of: Layers of the model.
        offload: Whether their inputs wait in the memory of the host.
    """

    layers: int
    of: int
    offload: bool = False

    def __str__(self) -> str:
        """As in `status.resolved`."""
        if self.layers in (0, self.of):
            words = "Enabled" if self.layers else "Disabled"
        else:
            words = f"{self.layers} of {self.of} layers"
        return "Offload" if self.offload else words


@dataclass(frozen=True)
class LayerMemory:
    """Bytes that one forward pass leaves on the device.

    Attributes:
        layers: How many layers there are.
        kept: Of one layer that keeps what it computed.
        block_input: Of the input of one layer.
        loss: Of what the output layer and the loss take; free again when the layers' backward pass begins.
        working: Of what the backward pass of one layer takes beside what that layer kept.
        light: How many of them keep less, the first ones: those of an encoder.
        kept_light: Of one of these.
    """

    layers: int
    kept: int
    block_input: int
    loss: int = 0
    working: int = 0
    light: int = 0
    kept_light: int = 0

    def total(self, recomputed: int, *, offload: bool = False) -> int:
        """Of the layers and the loss, at the peak of a step.

        Args:
            recomputed: Layers that keep their input alone, the first ones.
            offload: Whether these inputs wait elsewhere, but for two on their way.
        """
        inputs = min(recomputed, 2) if offload else recomputed
        light = max(0, self.light - recomputed)
        heavy = self.layers - recomputed - light
        kept = light * self.kept_light + heavy * self.kept
        last = max(self.loss, self.working if kept else 0)
        computed_again = self.kept + self.working if recomputed else 0
        return inputs * self.block_input + max(kept + last, computed_again)


def plan(memory: LayerMemory, room: int, *, offload: bool = False) -> Recomputation:
    """The fewest layers with which a step fits; all of them where none do.

    Args:
        memory: Of the layers.
        room: Bytes that are left for them and the loss.
        offload: Whether inputs may go to the host, where recomputing every layer is not enough.
    """
    for recomputed in range(memory.layers + 1):
        if memory.total(recomputed) <= room:
            return Recomputation(recomputed, memory.layers)
    return Recomputation(memory.layers, memory.layers, offload=offload)
