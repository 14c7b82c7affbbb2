"""Choosing among arms whose price, latency and quality drift: policies, pacing, feedback, environments, replay.

Pure numbers: nothing here asks a model or reads a clock.
"""
