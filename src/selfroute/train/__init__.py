"""Training: warm-up, GAPG, router fitting."""
