"""Who runs the workers: this process, a simulated clock, or actors of Ray."""
