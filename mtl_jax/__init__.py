"""Multi-task learning for video object detection and tracking, in JAX and Flax."""

__version__ = "0.1.0"
