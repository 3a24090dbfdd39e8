"""Identity: an embedding that is alike for one object over time and unlike for any two."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mtl_jax.structures import Batch
from mtl_jax.tasks.targets import Targets, at_cells

_TEMPERATURE = 0.1


def normalize(embeddings: Float[Array, "*n features"]) -> Float[Array, "*n features"]:
    """Returns the embeddings at unit length, with a finite gradient at zero."""
    return embeddings * jax.lax.rsqrt(jnp.sum(embeddings**2, axis=-1, keepdims=True) + 1e-12)


def loss(
    outputs: Float[Array, "batch time height width features"], batch: Batch, targets: Targets
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Supervised contrastive loss between all identified objects of the batch.

    For an object `i` with others `P(i)` of the same identity and `A(i)` of any identity:
    `-2t/|P(i)| sum_p log(exp(z_i z_p / t) / sum_a exp(z_i z_a / t))`, with unit embeddings `z` at the centre cells and
    temperature `t = 0.1`. The factor `2t` makes the gradient's size independent of the temperature, as in MoCo v3;
    without it this task drowns the others in what they share. Unlike a classifier over identities the loss has no
    parameters, so it is the same for nineteen people and for endless synthetic ones.

    Returns:
        Sum over objects that have at least one other of their identity, and their number.

    References: Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020 (arXiv:2004.11362), equation 2; Chen et
    al., "An Empirical Study of Training Self-Supervised Vision Transformers", ICCV 2021 (arXiv:2104.02057).
    """
    embeddings = jax.vmap(jax.vmap(at_cells))(outputs, targets.cells)
    embeddings = normalize(embeddings.reshape(-1, outputs.shape[-1]).astype(jnp.float32))
    ids = batch.track_ids.reshape(-1)
    identified = batch.mask.reshape(-1) & (ids >= 0)

    other = identified[:, None] & identified[None, :] & ~jnp.eye(len(ids), dtype=bool)
    positive = other & (ids[:, None] == ids[None, :])
    similarity = jnp.where(other, embeddings @ embeddings.T / _TEMPERATURE, -1e9)
    log_probability = jax.nn.log_softmax(similarity, axis=-1)
    positives = jnp.sum(positive, axis=-1)
    per_object = -jnp.sum(jnp.where(positive, log_probability, 0), axis=-1) / jnp.maximum(positives, 1)
    return 2 * _TEMPERATURE * jnp.sum(per_object), jnp.sum(positives > 0).astype(jnp.float32)
