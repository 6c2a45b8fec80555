"""Predictions for one's own images, and pictures of predictions."""
