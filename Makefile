# Every target is a command of tools/dev.py, which also works without make. ARGS="..." passes arguments on.
PYTHON ?= python3
TARGETS := setup demo serve test test-unit lint workflows thumbnails standin standin-report testbed bench bench-train archive clean

.PHONY: help $(TARGETS)
.DEFAULT_GOAL := help

help $(TARGETS):
	@$(PYTHON) tools/dev.py $@ $(ARGS)
