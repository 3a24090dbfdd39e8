"""Hierarchical supervision: simple tasks look at lower stages of the backbone than hard ones."""

import flax.linen as nn
from jaxtyping import Array, Float

from mtl_jax.errors import UserError
from mtl_jax.models.network import Frames, MultiTaskNetwork


class Hierarchical(MultiTaskNetwork):
    """One backbone; each task's neck sees its first stages only, so that the later ones are for the other tasks.

    Tasks with as many stages have one neck.

    Attributes:
        levels: Stages that tasks see, `TASK=STAGES` with blanks between; the others see all. Empty: box and
            classification see all but the last stage, as an object is found before it is recognised again.

    References: Søgaard & Goldberg, "Deep multi-task learning with low level tasks supervised at lower layers", ACL
    2016; Sanh et al., "A Hierarchical Multi-task Approach for Learning Embeddings from Semantic Tasks", AAAI 2019
    (arXiv:1811.06031), whose connections from lower tasks to higher ones `Cascade` has.
    """

    levels: str = ""

    @nn.compact
    def share(self, frames: Frames, train: bool) -> dict[str, Float[Array, "batch rows columns channels"]]:
        """Returns each task's feature map."""
        backbone = self.make_backbone(name="backbone")
        outputs = backbone(*frames, train)
        seen = self._stages_of_tasks(len(outputs))
        necks = {
            count: self.make_neck(name=f"neck{count}")(outputs[:count], train)
            for count in sorted(set(seen.values()))
        }
        return {task: necks[count] for task, count in seen.items()}

    @nn.nowrap
    def _stages_of_tasks(self, stages: int) -> dict[str, int]:
        levels = dict.fromkeys(self.tasks, stages)
        if not self.levels:
            return levels | {task: stages - 1 for task in ("box", "classification") if task in levels}
        for word in self.levels.split():
            task, _, count = word.partition("=")
            if task not in levels:
                raise UserError(
                    f"model.sharing.levels: no task is called {task!r}; there are {', '.join(self.tasks)}"
                )
            if not count.isdecimal() or not 1 <= int(count) <= stages:
                raise UserError(
                    f"model.sharing.levels: found {word!r}; expected TASK=STAGES with 1 to {stages} stages"
                )
            levels[task] = int(count)
        return levels
