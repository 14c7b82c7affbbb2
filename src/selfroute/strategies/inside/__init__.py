"""Collaboration inside the answer: tokens, steps and layers that change hands."""
