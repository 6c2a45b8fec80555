"""The long-range probe: it tells token mixers that reach far from those that do not."""
