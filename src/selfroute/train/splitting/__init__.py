"""Policies of where to cut a model: quality at a few points, a surrogate of it, and agents that learn in that."""
