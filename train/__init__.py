"""The trainer: `python -m train CONFIG [overrides]`. It imports `pst_jax`, never the reverse."""
