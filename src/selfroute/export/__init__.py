"""A trained model as files that other programs load: a Hugging Face folder, GGUF, an Ollama Modelfile."""
