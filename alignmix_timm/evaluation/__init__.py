"""Measures of a network and their figures: accuracy and calibration. May import nothing else of this package."""
