"""The subcommands of `python -m pst_jax`, one module each: `add_arguments(parser)`, `run(options)`."""
