"""What a Runner calls: loops, checkpoints, resuming, sampling, optimizer wrappers, compiling, strict loading.

:mod:`~mmengine_plugin.engine.compare_runs` compares the ends of two runs bit by bit.
"""
