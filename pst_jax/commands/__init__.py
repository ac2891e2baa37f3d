"""The subcommands of `python -m pst_jax`: one module each, with `add_arguments` and `run`."""
