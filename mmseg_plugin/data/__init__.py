"""Folders of images and masks: finding pairs, reading masks, checking and converting them."""
