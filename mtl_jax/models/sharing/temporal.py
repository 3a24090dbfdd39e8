"""What architectures that remember have in common: clips in training, one frame after the other online."""

from jaxtyping import Array, Float

from mtl_jax.errors import UserError
from mtl_jax.models.network import Frames
from mtl_jax.models.sharing.hard import Hard


class Temporal(Hard):
    """Hard sharing, in which a frame's features also depend on those of the frames before it, never on later ones.

    In training a batch holds whole clips of `clip_length` frames, one after the other. Online, where the collection
    "memory" is mutable, it holds one frame of each video, and what is to be remembered is read from that collection and
    written to it; a collection of zeros is the memory before the first frame.

    Example:
        >>> features, updated = network.apply(
        ...     {**variables, "memory": memory}, image, previous_image, heatmap, mutable=["memory"], method="trunk"
        ... )
        >>> memory = updated["memory"]
    """

    @property
    def online(self) -> bool:
        """Whether frames come one by one."""
        return self.is_mutable_collection("memory") and not self.is_initializing()

    def clips(
        self, x: Float[Array, "batch rows columns channels"]
    ) -> Float[Array, "clips time rows columns channels"]:
        """Returns the frames clip by clip; online a clip is one frame.

        Raises:
            UserError: Clips are too short for there to be anything to remember.
        """
        if self.clip_length < 2:
            raise UserError(
                f"data.clip_length: found {self.clip_length}, but an architecture that remembers learns from clips of "
                "several frames; give 2 or more"
            )
        return x.reshape(-1, 1 if self.online else self.clip_length, *x.shape[1:])

    def backbone_and_neck(self, frames: Frames, train: bool) -> Float[Array, "batch rows columns channels"]:
        """Returns each frame's own features."""
        return self.make_neck(name="neck")(self.make_backbone(name="backbone")(*frames, train), train)
