"""Online tracking: Kalman filter, costs, assignment, and the tracker as a scan."""

from mtl_jax.tracking.interpolation import interpolate
from mtl_jax.tracking.tracker import Tracker, TrackerState, make

__all__ = ["Tracker", "TrackerState", "interpolate", "make"]
