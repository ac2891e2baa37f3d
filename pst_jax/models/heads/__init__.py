"""What turns maps into answers: logits of classes, or boxes."""
