"""Training: state, mesh, step, checkpoints, loop."""
