"""Checks of data sets, before training and while it runs."""
