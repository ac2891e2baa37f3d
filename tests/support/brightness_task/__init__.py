"""A third task in one folder: the mean brightness of an image, to show that one needs no more."""
