"""The programs; in an installed package they are `python -m mmengine_plugin.tools.<name>`."""
