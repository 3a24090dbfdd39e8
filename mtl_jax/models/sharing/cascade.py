"""A cascade: detection comes first; its features and what it predicts go into the tasks that follow."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtl_jax.models.network import Frames
from mtl_jax.models.sharing.early import Early, Stages


class Cascade(Early):
    """Some tasks predict early; the others see the neck's features, those of the first tasks, and their predictions.

    With the neck's features `x`:

        d   = conv(x)                     features of the first tasks, all of them together
        p_k = W_k d                       their early predictions, trained like the final ones
        x_j = conv([x; d; σ(p) or p])     features of the others; probabilities of class maps, other predictions as are

    Attributes:
        first: The first tasks, with blanks between.
        detach: Whether the others' gradients end at the early predictions, so that they cannot bend them.

    References: Hashimoto et al., "A Joint Many-Task Model", EMNLP 2017 (arXiv:1611.01587); Sanh et al., "A Hierarchical
    Multi-task Approach", AAAI 2019 (arXiv:1811.06031).
    """

    first: str = "box classification"
    detach: bool = True

    @nn.compact
    def share(self, frames: Frames, train: bool) -> Stages:
        """Returns each task's features, and the early predictions of the first ones."""
        x = self.make_neck(name="neck")(self.make_backbone(name="backbone")(*frames, train), train)
        first = [task for task in self.tasks if task in self.first.split()]
        found = self.conv("first", x, train)
        early = {task: self.predict_early(f"early_{task}", task, found) for task in first}
        seen = [
            jax.nn.sigmoid(prediction) if task == "classification" else prediction
            for task, prediction in early.items()
        ]
        if self.detach:
            seen = [jax.lax.stop_gradient(prediction) for prediction in seen]
        together = jnp.concatenate([x, found, *(prediction.astype(x.dtype) for prediction in seen)], axis=-1)
        features = {
            task: found if task in first else self.conv(f"next_{task}", together, train)
            for task in self.tasks
        }
        return Stages(features, {task: (prediction,) for task, prediction in early.items()})
