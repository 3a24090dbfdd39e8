"""Thin Linen modules: backbones, neck, heads, and the network that they make."""
