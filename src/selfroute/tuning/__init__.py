"""Prompts as programs, tuned by feedback alone: slots, consensus, engines."""
