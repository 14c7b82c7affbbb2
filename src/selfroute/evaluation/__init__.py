"""Evaluation at matched call share."""
