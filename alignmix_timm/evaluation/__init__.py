"""Measures of a network and their figures: accuracy, calibration, robustness, detection, localization.

May import nothing else of this package.
"""
