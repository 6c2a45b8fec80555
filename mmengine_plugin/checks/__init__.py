"""Checks of a run before its first step: configs, pipelines, data, models and scores against each other."""
