"""Share LLM work between a small model on the device and a large one in the cloud."""
