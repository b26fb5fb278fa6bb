"""Backbones as feature pyramids, their weights, and classifiers on top of them."""
