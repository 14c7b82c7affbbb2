"""The OpenAI-compatible gateway: strategies behind an HTTP endpoint."""
