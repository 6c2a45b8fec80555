"""COCO's scores, and the checks of what is scored."""
