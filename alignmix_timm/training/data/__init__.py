"""Image datasets of Hugging Face as batches: splits, rows, transforms, the batch plan and the loaders.

May import ``seeds`` and the options of ``training``.
"""
