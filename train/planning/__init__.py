"""What the TPU compiler says of a training step, and what follows from it (train.plan)."""
