# The two commands of the README. Both make an environment on first use, with all that they need.
PYTHON ?= python3
VENV ?= .venv
python = $(VENV)/bin/python

.PHONY: train test environment clean

train: $(VENV)/.installed-train
	$(python) -m train configs/digits.py

test: environment
	$(python) -m pytest -n 2

# Everything that tests and CI need. Versions are pinned so that all machines test the same.
environment: $(VENV)/.installed-test

$(python):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-test: pyproject.toml constraints.txt $(python)
	$(python) -m pip install --quiet -e '.[test]' -c constraints.txt
	@touch $@ $(VENV)/.installed-train

$(VENV)/.installed-train: pyproject.toml $(python)
	$(python) -m pip install --quiet -e '.[train]'
	@touch $@

clean:
	rm -rf $(VENV) runs data
