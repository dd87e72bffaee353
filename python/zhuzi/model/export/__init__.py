"""A model as others load it: GGUF for llama.cpp and Ollama, a folder for transformers and vLLM."""
