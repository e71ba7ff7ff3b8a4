"""Image datasets of Hugging Face as batches."""
