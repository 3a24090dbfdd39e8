"""Learning to branch: which stage's features each branch goes on from is sampled, and learned."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mtl_jax.models.network import Frames, MultiTaskNetwork


class Branched(MultiTaskNetwork):
    """A tree of stages that is learned with the weights.

    Each stage is there as many times as there are tasks. A stage's copy chooses the copy of the stage before that it
    goes on from, and a task the copy of the last stage that its neck sees, by logits to which Gumbel noise is added in
    training; afterwards the likeliest is taken. What is chosen goes forward, and gradients pass as if it had been the
    softmax (straight-through; in the paper the mixture itself goes forward, at a falling temperature).

    Attributes:
        temperature: Of the softmax.

    Reference: Guo et al., "Learning to Branch for Multi-Task Learning", ICML 2020 (arXiv:2006.01895).
    """

    temperature: float = 1.0

    @nn.compact
    def share(self, frames: Frames, train: bool) -> dict[str, Float[Array, "batch rows columns channels"]]:
        """Returns each task's feature map."""
        trunk = self.make_backbone(name="backbone")
        copies = [self.make_backbone(name=f"backbone_copy{i}") for i in range(len(self.tasks))]
        x = trunk.entry(*frames, train)
        # Of each copy: the outputs of the stages on the way to it.
        ways = [[copy.stage(0, x, train)] for copy in copies]
        for stage in range(1, trunk.num_stages):
            ways = [
                [*way, copy.stage(stage, way[-1], train)]
                for copy, way in zip(copies, self._choose(f"parents{stage}", ways, train), strict=True)
            ]
        chosen = self._choose("leaves", ways, train)
        return {
            task: self.make_neck(name=f"neck_{task}")(trunk.pyramid(way, train), train)
            for task, way in zip(self.tasks, chosen, strict=True)
        }

    def _choose(self, name: str, ways: list[list[Array]], train: bool) -> list[list[Array]]:
        """Returns as many ways as there are, each one of them."""
        number = len(ways)
        # At first a copy prefers its own number a little, or the tree has no shape to begin with.
        logits = self.param(name, lambda _: jnp.eye(number))
        weights = choose(self, logits, self.temperature, train)
        return [
            [
                sum(weight * x for weight, x in zip(row, level, strict=True)).astype(level[0].dtype)
                for level in zip(*ways, strict=True)
            ]
            for row in weights
        ]


def choose(
    module: nn.Module, logits: Float[Array, "*n choices"], temperature: float, train: bool
) -> Float[Array, "*n choices"]:
    """Returns one-hot choices: sampled in training, with the softmax's gradient; the likeliest otherwise.

    Reference: Jang et al., "Categorical Reparameterization with Gumbel-Softmax", ICLR 2017 (arXiv:1611.01144).
    """
    if train:
        logits += jax.random.gumbel(module.make_rng("sharing"), logits.shape)
    hard = jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1])
    soft = jax.nn.softmax(logits / temperature, axis=-1)
    return hard + soft - jax.lax.stop_gradient(soft)
