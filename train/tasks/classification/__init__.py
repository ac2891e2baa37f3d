"""Image classification: one label for an image."""
