"""Checks of data sets, before a training and while it runs."""
