"""Video data sets: renderer, MOTChallenge files, TFDS builders, augmentation and the Grain pipeline."""
