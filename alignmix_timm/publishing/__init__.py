"""Weights for plain timm and the Hugging Face Hub: saved, verified, described by a card, uploaded.

May import ``attaching``, to leave no trace of AlignMix in what it saves; never ``training``.
"""
