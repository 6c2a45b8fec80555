"""Does a classifier that was trained here help a detector?"""
