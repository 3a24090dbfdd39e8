"""Necks: networks from a backbone's feature maps to the one that the heads see."""
