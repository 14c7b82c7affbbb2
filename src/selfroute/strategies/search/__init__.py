"""Several attempts before one answer: best of n, reflexion, tree search, agents with tools."""
