"""pst_jax push RUN REPO: trained weights as a repository of the Hugging Face hub."""

import argparse

from pst_jax.commands import source

DESCRIPTION = """\
Shares trained weights as a repository of the Hugging Face hub, for `hf://owner/name`. It gets
weights.safetensors, config.json (network, preprocessing, classes, what the run measured and its
options, but for places on this machine) and README.md, a model card of these facts.

  pst_jax push runs/digits alice/digits-pst
  pst_jax push runs/digits alice/digits-pst --step best --license apache-2.0 --private

A repository that holds something is kept: --force adds a commit to it, and its history keeps the
old files. Needs huggingface_hub, and a token that may write (`hf auth login`, or HF_TOKEN).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the options of the command."""
  parser.add_argument("source", metavar="RUN", help=source.DESCRIPTION)
  parser.add_argument("repo", metavar="REPO", help="owner/name; it is made if there is none")
  source.add_arguments(parser)
  parser.add_argument(
    "--license",
    metavar="NAME",
    help="the license that the model card names, such as apache-2.0 (default: none is named)",
  )
  parser.add_argument(
    "--private", action="store_true", help="a repository that is made is for you alone"
  )
  parser.add_argument("--message", metavar="TEXT", help="of the commit")
  parser.add_argument(
    "--force", action="store_true", help="add a commit to a repository that holds something"
  )


def run(options: argparse.Namespace) -> None:
  """Shares as the options of `add_arguments` say; prints where.

  What a repository held stays as it was where this raises UserError.
  """
  import json
  import pathlib
  import tempfile

  # Late, so that --help answers at once.
  from pst_jax import hub
  from pst_jax.commands.model_card import model_card
  from pst_jax.convert import hub_config, io
  from pst_jax.convert.metadata import described

  # What can be found out at once must not wait for the reading.
  address = hub.parse(options.repo)
  commit = hub.check_free(address, force=options.force)
  weights = source.read(options.source, options)
  facts = weights.metadata
  print(f"read     {options.source}: {described(facts)}", flush=True)
  config = hub_config.make(facts, weights.record)
  card = model_card(address.repo, weights, config, options.license)
  with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder, hub.WEIGHTS)
    io.write(file, weights)
    size = file.stat().st_size
    files = {
      hub.WEIGHTS: file,
      hub.CONFIG: (json.dumps(config, indent=2, allow_nan=False) + "\n").encode(),
      hub.CARD: card.encode(),
    }
    url = hub.publish(
      address,
      files,
      commit=commit,
      message=options.message or f"{facts.model}: {described(facts)}",
      private=options.private or None,
    )
  print(f"shared   {address}: {', '.join(files)}, {size / 1e6:.1f} MB\nseen at  {url}")
