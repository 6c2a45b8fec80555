"""What the programs in ``tools/`` share: arguments, configs, ``--cfg-options``, launching, answers to errors."""
