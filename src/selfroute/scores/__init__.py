"""Anything to a number: features, embeddings, evidence of an attempt, and scorers fitted on them."""
