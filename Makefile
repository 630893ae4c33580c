# `make demo [AUDIO=song.mp3]` and `make test` set everything up by themselves, and are quick the second time.
PYTHON ?= python3
VENV ?= .venv
SAMPLES = samples/bright.ogg samples/dark.ogg

.PHONY: demo test clean

demo: $(VENV)/.installed
	@$(VENV)/bin/mer predict $(if $(AUDIO),"$(AUDIO)",$(SAMPLES))

test: $(VENV)/.installed
	$(VENV)/bin/python -m pytest

$(VENV)/.installed: requirements.txt setup.py
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --requirement requirements.txt
	$(VENV)/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

clean:
	rm -rf $(VENV) *.egg-info
