"""PAD-Net: every task predicts early, and then takes from the others' features what helps it."""

import flax.linen as nn

from mtl_jax.models.network import Frames
from mtl_jax.models.sharing.early import Early, Stages


class PadNet(Early):
    """Prediction-and-distillation network, with the paper's attention-guided message passing (module C).

    Reference: Xu et al., "PAD-Net: Multi-Tasks Guided Prediction-and-Distillation Network", CVPR 2018
    (arXiv:1805.04409).
    """

    @nn.compact
    def share(self, frames: Frames, train: bool) -> Stages:
        """Returns each task's features and its early prediction."""
        x = self.make_neck(name="neck")(self.make_backbone(name="backbone")(*frames, train), train)
        initial = {task: self.conv(f"initial_{task}", x, train) for task in self.tasks}
        early = {task: (self.predict_early(f"early_{task}", task, y),) for task, y in initial.items()}
        return Stages(self.distil("distil", initial), early)
