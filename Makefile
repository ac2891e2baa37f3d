# The commands of the README. All make an environment on first use, with all that they need.
PYTHON ?= python3
VENV ?= .venv
# Extra of jax for an accelerator, e.g. cuda13, cuda12 or tpu; without one JAX runs on the CPU.
JAX ?=
python = $(VENV)/bin/python

.PHONY: train detect test environment clean

train: $(VENV)/.installed-train$(JAX)
	$(python) -m train configs/classification/digits.py

# Scenes of digits with boxes; then coarse and fine results of one checkpoint, and a picture.
detect: $(VENV)/.installed-train$(JAX)
	$(python) -m train configs/detection/digit_scenes.py
	$(python) -m train.evaluate runs/digit_scenes --pictures runs/digit_scenes/found.png --force

test: environment
	$(python) -m pytest -n 2 --dist worksteal

# Everything that tests and CI need. Versions are pinned so that all machines test the same.
environment: $(VENV)/.installed-test

$(python):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-test: pyproject.toml constraints.txt $(python)
	$(python) -m pip install --quiet -e '.[test,test-s3,onnx]' -c constraints.txt
	@touch $@ $(VENV)/.installed-train

$(VENV)/.installed-train$(JAX): pyproject.toml $(python)
	$(python) -m pip install --quiet -e '.[train]' $(if $(JAX),'jax[$(JAX)]')
	@touch $@

clean:
	rm -rf $(VENV) runs data
