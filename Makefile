# The two commands of the README. Both make .venv on first use, with all that they need.
PYTHON ?= python3

.PHONY: train test clean

train: .venv/.installed-train
	.venv/bin/python -m train configs/digits.py

test: .venv/.installed-test
	.venv/bin/python -m pytest

.venv/bin/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed: make PYTHON=python3.11"'
	$(PYTHON) -m venv .venv

# torch comes as its small CPU build where the index has one; only the tests need it.
.venv/.installed-test: pyproject.toml constraints.txt .venv/bin/python
	.venv/bin/python -m pip install --quiet -e '.[test]' -c constraints.txt
	touch $@ .venv/.installed-train

.venv/.installed-train: pyproject.toml .venv/bin/python
	.venv/bin/python -m pip install --quiet -e '.[train]'
	touch $@

clean:
	rm -rf .venv runs data
