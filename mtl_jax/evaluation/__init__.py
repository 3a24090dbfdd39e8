"""Scores: official tracking and detection metrics, re-identification, motion."""
