"""Weights for plain timm and the Hugging Face Hub."""
