"""The paper's figures and measurements, from trained networks.

May import ``training`` and all below it. Imported by recipes only.
"""
