"""GGUF files: one file for each thing that llama.cpp wants said in its own way."""
