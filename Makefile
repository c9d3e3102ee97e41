# `make` names the targets. Everything is set up on first use, in .venv, and again when
# pyproject.toml or constraints.txt change.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PY ?= python3
export PY
VENV := .venv
BIN := $(VENV)/bin
PYTHON := $(BIN)/python -X faulthandler
STAMP := $(VENV)/.installed
# A screen of its own, drawn by Mesa's software OpenGL; macOS has one anyway.
ifeq ($(shell uname -s),Linux)
DISPLAYED := env -u WAYLAND_DISPLAY QT_QPA_PLATFORM=xcb LIBGL_ALWAYS_SOFTWARE=1 xvfb-run -a -s "-screen 0 1400x900x24"
endif

.PHONY: help demo test lint test-headless test-gl screenshots bench-fmd bench-named-noise bench-quality bench-stop bench-calibration bench-speed bench-tiles bench-ablation bench-seeds bench-uncertainty bench-impedance bench-architectures bench-tasks faults pages libraries window-libraries

help:  ## name the targets
	@grep -hE '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*  ## /\1\t/' | awk -F'\t' '{printf "make %-14s %s\n", $$1, $$2}'

demo: window-libraries $(STAMP)  ## restore the bundled picture: in napari, or without a display into a PNG
	$(BIN)/napari-dip demo

test: libraries lint test-headless test-gl  ## set up everything, check style, types and arrows, run all tests

lint: $(STAMP)  ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test-headless: $(STAMP)  ## the tests that need no display
	QT_QPA_PLATFORM=offscreen $(PYTHON) -m pytest -q -m "not gl" -n 2 --dist worksteal $(ARGS)

test-gl: libraries $(STAMP)  ## the tests that draw with OpenGL, on a virtual display
	$(DISPLAYED) $(PYTHON) -m pytest -q -m gl -n 2 --dist worksteal $(ARGS)

screenshots: libraries $(STAMP)  ## make the pictures in docs/images again
	$(DISPLAYED) $(PYTHON) scripts/screenshots.py

bench-fmd: $(STAMP)  ## PSNR on the raw images of the FMD set
	$(BIN)/python benchmarks/fmd.py $(ARGS)

# BM3D is free for non-commercial use only, so it comes with this comparison and with nothing else.
bench-quality: $(STAMP)  ## our presets and other methods on the same images, resumable; a part with ARGS=--small
	@$(BIN)/python -c "import bm3d" 2>/dev/null || $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt bm3d==4.0.3
	$(BIN)/python benchmarks/quality.py $(ARGS)

bench-named-noise: $(STAMP)  ## salt and pepper, stripes and speckle under their own noise models; resumable
	$(BIN)/python benchmarks/named_noise.py $(ARGS)

bench-stop: $(STAMP)  ## how far the stop lies from the best iterate
	$(BIN)/python benchmarks/stop.py $(ARGS)

bench-speed: $(STAMP)  ## the loop beside one written by hand, and the network's layers alone
	$(BIN)/python benchmarks/overhead.py $(ARGS)

bench-ablation: $(STAMP)  ## what each part of denoising is worth; resumable
	$(BIN)/python benchmarks/ablation.py $(ARGS)

bench-seeds: $(STAMP)  ## how much results differ from seed to seed; resumable
	$(BIN)/python benchmarks/seeds.py $(ARGS)

bench-uncertainty: $(STAMP)  ## how sure results are, against the truth
	$(BIN)/python benchmarks/uncertainty.py $(ARGS)

bench-impedance: $(STAMP)  ## energies of image, noise and shuffled pixels on twenty pictures; resumable
	$(BIN)/python benchmarks/impedance.py $(ARGS)

bench-architectures: $(STAMP)  ## whether the scores of an architecture foretell its best PSNR; resumable
	$(BIN)/python benchmarks/architectures.py $(ARGS)

bench-tiles: $(STAMP)  ## memory, speed and seams of pictures in tiles; ARGS=large for 268 megapixels
	$(BIN)/python benchmarks/tiles.py $(ARGS)

bench-calibration: $(STAMP)  ## how well noise is told from one image
	$(BIN)/python benchmarks/calibration.py $(ARGS)

bench-tasks: $(STAMP)  ## every task on the shared images, resumable; hours
	for one in inpaint super_resolve super_resolve_axial deblur deblur_stacks "blind_deblur widths" \
	  "blind_deblur levin" "blind_deblur told" guide stacks filling_stacks smoothing two_measurements jpeg; \
	do set -- $$one; $(BIN)/python benchmarks/$$1.py $$2 $(ARGS) || exit 1; done

faults: $(STAMP)  ## bad input, kills, full disks, hostile files, in earnest; resumable; ARGS="--only kills"
	PYTHONPATH=tests OMP_NUM_THREADS=1 QT_QPA_PLATFORM=offscreen $(BIN)/python -m faults $(ARGS)

pages: $(STAMP)  ## write again what the documentation takes from the code: messages, settings
	$(BIN)/python scripts/write_pages.py

libraries:
	@scripts/system_libraries.sh test

window-libraries:
	@scripts/system_libraries.sh demo

$(STAMP): pyproject.toml constraints.txt hatch_build.py | window-libraries
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with: make PY=python3.12")'
	@[ -x $(BIN)/python ] || $(PY) -m venv $(VENV)
	@echo "Installing into $(VENV); the first time takes some minutes."
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[app,test]"
	@touch $@
