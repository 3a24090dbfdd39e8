"""The scalarizations, by what they look at."""
