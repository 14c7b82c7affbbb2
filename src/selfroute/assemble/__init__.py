"""Recipes to running things: models, tasks and strategies put together for the commands.

The rooms below take plain arguments; this is where a recipe's fields become them. Nothing is imported here: a gateway
need not load what a training needs.
"""
