"""Links between device and cloud: one definition for evaluation, simulation and training."""
