"""Heat maps laid over the picture they belong to."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8


def overlay_heatmap(
    image: UInt8[np.ndarray, "height width 3"],
    heatmap: Float[np.ndarray, "rows columns *classes"],
    opacity: float = 0.8,
) -> UInt8[np.ndarray, "height width 3"]:
    """Returns the picture with the heat map over it: opaque where hot, clear where cold.

    Args:
        image: RGB pixels.
        heatmap: Probabilities from 0 to 1, of the whole picture at any resolution; of several classes the
            largest counts.
        opacity: Share of the heat map's colour where it is 1.
    """
    heat = np.clip(heatmap.reshape(*heatmap.shape[:2], -1).max(axis=-1), 0, 1).astype(np.float32)
    heat = cv2.resize(heat, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    colored = cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    # The square root keeps weak responses visible.
    share = opacity * np.sqrt(heat)[..., None]
    return (image * (1 - share) + colored * share + 0.5).astype(np.uint8)
