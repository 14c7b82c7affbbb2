"""Ways to split work between device and cloud."""
