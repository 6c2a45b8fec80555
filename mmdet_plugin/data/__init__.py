"""Annotation files and images in COCO's format: reading, checking and mending them."""
