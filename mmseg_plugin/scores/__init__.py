"""The mean IoU, and files of predictions."""
