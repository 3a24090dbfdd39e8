"""Hard sharing up to some stage, then branches: a tree of tasks that the configuration gives."""

import re
from typing import NamedTuple

import flax.linen as nn
from jaxtyping import Array, Float

from mtl_jax.errors import UserError
from mtl_jax.models.backbones import Backbone
from mtl_jax.models.network import Frames, MultiTaskNetwork


class Group(NamedTuple):
    """Tasks that share all that is left.

    Attributes:
        tasks: The tasks.
    """

    tasks: tuple[str, ...]


class Split(NamedTuple):
    """Branches that part after a stage.

    Attributes:
        stages: Stages of the backbone that they share, counted from its beginning; 0: only the entry.
        branches: What goes apart.
    """

    stages: int
    branches: tuple["Group | Split", ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks of all branches."""
        return tuple(task for branch in self.branches for task in branch.tasks)


class Tree(MultiTaskNetwork):
    """Stages that groups of tasks share, as a tree says: each branch has its own copy of the stages that follow.

    A tree is written `(BRANCH | BRANCH | ...)@N`: branches that part after N stages. A branch is a list of tasks, which
    share the rest of the backbone and a neck, or another tree. `(box classification | (motion | identity)@3)@2` has
    two stages for all, detection on its own after them, and one more stage for motion and identity together.

    Attributes:
        tree: The tree; empty: all tasks together, which is hard sharing.
    """

    tree: str = ""

    @nn.compact
    def share(self, frames: Frames, train: bool) -> dict[str, Float[Array, "batch rows columns channels"]]:
        """Returns the feature map of each group, under the names of its tasks."""
        root = parse_tree(self.tree, self.tasks)
        backbone = self.make_backbone(name="backbone")
        return self._grow(root, "", backbone, backbone.entry(*frames, train), [], train)

    def _grow(
        self,
        node: Group | Split,
        suffix: str,
        backbone: Backbone,
        x: Array,
        outputs: list[Array],
        train: bool,
    ) -> dict[str, Array]:
        """Returns the groups' feature maps above a node, which goes on with `x` after the stages of `outputs`."""
        end = node.stages if isinstance(node, Split) else backbone.num_stages
        if end > backbone.num_stages:
            raise UserError(
                f"model.sharing.tree: found @{end}, but the backbone has {backbone.num_stages} stages"
            )
        for stage in range(len(outputs), end):
            x = backbone.stage(stage, x, train)
            outputs = [*outputs, x]
        if isinstance(node, Group):
            neck = self.make_neck(name="neck" + suffix)
            return {" ".join(node.tasks): neck(backbone.pyramid(outputs, train), train)}
        features: dict[str, Array] = {}
        for branch in node.branches:
            name = "_" + "_".join(branch.tasks)
            # Only the stages that are run get parameters.
            own = self.make_backbone(name="backbone" + name)
            features |= self._grow(branch, name, own, x, outputs, train)
        return features

    @nn.nowrap
    def features_of(
        self, features: dict[str, Float[Array, "batch rows columns channels"]], task: str
    ) -> Float[Array, "batch rows columns channels"]:
        """Returns the feature map of the task's group."""
        return next(x for group, x in features.items() if task in group.split())


def parse_tree(text: str, tasks: tuple[str, ...]) -> Group | Split:
    """Returns the tree that a text describes; see `Tree`.

    Args:
        text: The text; empty: all tasks in one group.
        tasks: All tasks, each of which must be in it once.

    Raises:
        UserError: It cannot be read, names an unknown task, or has a task twice or not at all.

    Example:
        >>> parse_tree("(box | motion)@2", ("box", "motion"))
        Split(stages=2, branches=(Group(tasks=('box',)), Group(tasks=('motion',))))
    """
    where = "model.sharing.tree"
    if not text.strip():
        return Group(tasks)
    words = re.findall(r"[()|]|@\d+|[^()|@\s]+|@", text)

    def branch() -> Group | Split:
        if words and words[0] == "(":
            words.pop(0)
            branches = [branch()]
            while words and words[0] == "|":
                words.pop(0)
                branches.append(branch())
            end, at = (words.pop(0) if words else "the end" for _ in range(2))
            if end != ")" or not at.startswith("@") or at == "@":
                raise UserError(
                    f"{where}: found {end!r} {at!r} in {text!r}; expected `)@N` with the stages shared"
                )
            return Split(int(at[1:]), tuple(branches))
        names = []
        while words and words[0] not in "()|" and not words[0].startswith("@"):
            names.append(words.pop(0))
        if not names:
            raise UserError(
                f"{where}: found {words[0] if words else 'the end'!r} in {text!r}; expected a task"
            )
        return Group(tuple(names))

    root = branch()
    if words:
        raise UserError(f"{where}: found {words[0]!r} after the end of the tree in {text!r}")
    _check_stages(root, 0, text)
    for task in root.tasks:
        if task not in tasks:
            raise UserError(f"{where}: no task is called {task!r}; there are {', '.join(tasks)}")
    for task in tasks:
        if root.tasks.count(task) != 1:
            raise UserError(
                f"{where}: {task} is there {root.tasks.count(task)} times in {text!r}; expected once"
            )
    return root


def _check_stages(node: Group | Split, shared: int, text: str) -> None:
    if isinstance(node, Split):
        if node.stages < shared:
            raise UserError(
                f"model.sharing.tree: branches part after {node.stages} stages within a branch that parted after "
                f"{shared} in {text!r}; inner numbers must not be smaller"
            )
        for branch in node.branches:
            _check_stages(branch, node.stages, text)
