"""Reinforcement learning after pre-training: the policy trainer, GAPG on top of it, and what both are made of."""
