# `make` names the targets. Everything is set up on first use, in .venv, and again when
# pyproject.toml or constraints.txt change.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PY ?= python3
export PY
# Tests start a hundred programs: the second shall not compile what the first has.
unexport PYTHONDONTWRITEBYTECODE
VENV := .venv
BIN := $(VENV)/bin
PYTHON := $(BIN)/python -X faulthandler
STAMP := $(VENV)/.installed
# Half of what is installed, by size, is hardly ever imported: compiled on all cores it takes half a minute.
RARELY_IMPORTED := /(tests|testing|sympy|networkx|pip|OpenGL|mypy|mypyc|debugpy|fontTools|hypothesis|setuptools|IPython|_inductor|_dynamo|onnx)/
# A screen of its own, drawn by Mesa's software OpenGL; macOS has one anyway.
ifeq ($(shell uname -s),Linux)
DISPLAYED := env -u WAYLAND_DISPLAY QT_QPA_PLATFORM=xcb LIBGL_ALWAYS_SOFTWARE=1 xvfb-run -a -s "-screen 0 1400x900x24"
endif

# Tests write 300 MB in 40,000 files, many of which wait for the disk: in memory where there is room.
IN_MEMORY := $(shell [ "$$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 {print $$4}')" -gt 4000000 ] 2>/dev/null && echo TMPDIR=/dev/shm)

.PHONY: help demo test lint test-headless test-long test-gl screenshots looks bench-fmd bench-named-noise bench-camera-maps bench-quality bench-stop bench-calibration bench-cluster bench-speed bench-overhead bench-plan bench-startup bench-gpu bench-tiles bench-volumes bench-ablation bench-seeds bench-uncertainty bench-impedance bench-architectures bench-features bench-warm-start bench-series gallery bench-tasks faults golden audit workflows docs pages libraries window-libraries

help:  ## name the targets
	@grep -hE '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*  ## /\1\t/' | awk -F'\t' '{printf "make %-14s %s\n", $$1, $$2}'

demo: window-libraries $(STAMP)  ## restore the bundled picture: in napari, or without a display into a PNG
	$(BIN)/napari-dip demo
	@echo "Your own picture: source .venv/bin/activate, then napari, or napari-dip denoise YOURS.tif -o RESULT.tif --preset fast"

test: libraries lint test-headless test-gl  ## set up everything, check style, types and arrows, run all tests

lint: $(STAMP)  ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers 2
	$(BIN)/lint-imports --no-cache

test-headless: $(STAMP)  ## the tests that need no display
	$(IN_MEMORY) QT_QPA_PLATFORM=offscreen $(PYTHON) -m pytest -q -m "not gl and not long" -n 2 --dist worksteal $(ARGS)

test-long: libraries $(STAMP)  ## what `make test` leaves out for time: more cases, kills, quality; before a release, and after changes of the engine or the docks
	$(IN_MEMORY) QT_QPA_PLATFORM=offscreen $(PYTHON) -m pytest -q -m "long and not gl" -n 2 --dist worksteal
	$(IN_MEMORY) $(DISPLAYED) $(PYTHON) -m pytest -q -m "long and gl" -n 2 --dist worksteal tests/qt

test-gl: libraries $(STAMP)  ## the tests that draw with OpenGL, on a virtual display
	$(IN_MEMORY) $(DISPLAYED) $(PYTHON) -m pytest -q -m "gl and not long" -n 2 --dist worksteal $(or $(ARGS),tests/qt)

screenshots: libraries $(STAMP)  ## make the images in docs/images again
	$(DISPLAYED) $(PYTHON) scripts/screenshots.py $(ARGS)

looks: libraries $(STAMP)  ## every dock in two sizes and both themes, into docs/_build/looks, to be looked at
	$(subst 1400x900,2000x1200,$(DISPLAYED)) $(PYTHON) scripts/dock_screenshots.py docs/_build/looks $(ARGS)

bench-fmd: $(STAMP)  ## PSNR on the raw images of the FMD set
	$(BIN)/python benchmarks/fmd.py $(ARGS)

# BM3D is free for non-commercial use only, so it comes with this comparison and with nothing else.
bench-quality: $(STAMP)  ## our presets and other methods on the same images, resumable; a part with ARGS=--small
	@$(BIN)/python -c "import bm3d" 2>/dev/null || $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt bm3d==4.0.3
	$(BIN)/python benchmarks/quality.py $(ARGS)

bench-named-noise: $(STAMP)  ## salt and pepper, stripes and speckle under their own noise models; resumable
	$(BIN)/python benchmarks/named_noise.py $(ARGS)

bench-camera-maps: $(STAMP)  ## simulated sCMOS images with and without camera maps; resumable
	$(BIN)/python benchmarks/camera_maps.py $(ARGS)

bench-stop: $(STAMP)  ## how far the stop lies from the best iterate
	$(BIN)/python benchmarks/stop.py $(ARGS)

bench-speed: $(STAMP)  ## quality against CPU seconds beside the reference network and others; resumable, hours
	@$(BIN)/python -c "import bm3d" 2>/dev/null || $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt bm3d==4.0.3
	$(BIN)/python benchmarks/speed.py $(ARGS)

bench-overhead: $(STAMP)  ## the loop beside one written by hand, and the network's layers alone
	$(BIN)/python benchmarks/overhead.py $(ARGS)

bench-plan: $(STAMP)  ## how long runs take against what the plan says
	$(BIN)/python benchmarks/speed_plan.py $(ARGS)

bench-startup: libraries $(STAMP)  ## from the menu to the dock, and from Run to the first preview
	$(DISPLAYED) $(BIN)/python benchmarks/startup.py $(ARGS)

bench-gpu: $(STAMP)  ## steps recorded on an NVIDIA card, and whether it agrees with the processor
	$(BIN)/python benchmarks/gpu.py $(ARGS)

bench-ablation: $(STAMP)  ## what each part of denoising is worth; resumable
	$(BIN)/python benchmarks/ablation.py $(ARGS)

bench-seeds: $(STAMP)  ## how much results differ from seed to seed; resumable
	$(BIN)/python benchmarks/seeds.py $(ARGS)

bench-uncertainty: $(STAMP)  ## how sure results are, against the truth
	$(BIN)/python benchmarks/uncertainty.py $(ARGS)

bench-impedance: $(STAMP)  ## energies of image, noise and shuffled pixels on twenty images; resumable
	$(BIN)/python benchmarks/impedance.py $(ARGS)

bench-architectures: $(STAMP)  ## whether the scores of an architecture foretell its best PSNR; resumable
	$(BIN)/python benchmarks/architectures.py $(ARGS)

bench-warm-start: $(STAMP)  ## fits that begin with weights fitted to other images; resumable
	$(BIN)/python benchmarks/warm_start.py $(ARGS)

bench-series: $(STAMP)  ## one network for the frames of a movie, the tiles of a picture, or a folder (ARGS=folders); resumable, hours
	$(BIN)/python benchmarks/$(if $(filter folders,$(ARGS)),joint_training.py $(filter-out folders,$(ARGS)),movies.py $(ARGS))

gallery: $(STAMP)  ## compute docs/explore-gallery.md and its figures again
	$(BIN)/python scripts/explore_gallery.py $(ARGS)

bench-features: $(STAMP)  ## what layers of a network keep of an image, by three priors; resumable
	$(BIN)/python benchmarks/features.py $(ARGS)

bench-tiles: $(STAMP)  ## memory, speed and seams of images in tiles; ARGS=large for 268 megapixels
	$(BIN)/python benchmarks/tiles.py $(ARGS)

bench-cluster: $(STAMP)  ## two workers against two single processes, and what a task costs; resumable
	$(BIN)/python benchmarks/cluster.py $(ARGS)

bench-volumes: $(STAMP)  ## memory and quality of stacks in tiles, as OME-Zarr; resumable; ARGS="memory --megabytes 2000"
	$(BIN)/python benchmarks/volumes.py $(ARGS)

bench-calibration: $(STAMP)  ## how well noise is told from one image
	$(BIN)/python benchmarks/calibration.py $(ARGS)

bench-tasks: $(STAMP)  ## every task on the shared images, resumable; hours
	for one in inpaint super_resolve super_resolve_axial axial deblur deblur_stacks deblur_volumes field_psf blind_volumes "blind_deblur widths" \
	  "blind_deblur levin" "blind_deblur told" guide stacks inpaint_stacks inpaint_shapes inpaint_borders smoothing repeated_exposure jpeg; \
	do set -- $$one; $(BIN)/python benchmarks/$$1.py $$2 $(ARGS) || exit 1; done

faults: $(STAMP)  ## bad input, kills, full disks, hostile files, in earnest; resumable; ARGS="--only kills"
	PYTHONPATH=tests OMP_NUM_THREADS=1 QT_QPA_PLATFORM=offscreen $(BIN)/python -m faults $(ARGS)

# Before a change that must not change pixels, ARGS=--freeze writes tests/golden/hashes.json anew.
golden: $(STAMP)  ## whether a hundred recipes still give the same pixels; freeze them anew with ARGS=--freeze
	PYTHONPATH=tests $(BIN)/python -m golden $(ARGS)

docs: $(STAMP)  ## build the documentation into docs/_build; a warning is an error
	@$(BIN)/python -c "import furo, myst_parser" 2>/dev/null || $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[docs]"
	$(BIN)/python -m sphinx -b html -W --keep-going -d docs/_build/state docs docs/_build/html

# In an environment of its own: what the auditor needs must not change what is audited.
audit:  ## ask whether a pinned dependency has a known weakness; needs the network
	@[ -x .venv-audit/bin/pip-audit ] || { $(PY) -m venv .venv-audit && .venv-audit/bin/pip install -qq pip-audit; }
	.venv-audit/bin/pip-audit -r constraints.txt --no-deps --disable-pip

# In an environment of its own: Snakemake brings fifty packages.
workflows: $(STAMP)  ## run the workflow files whose engine pip installs: Snakemake; needs the network once
	@[ -x .venv-workflows/bin/snakemake ] || { $(PY) -m venv .venv-workflows && .venv-workflows/bin/pip install -qq 'snakemake>=9,<10'; }
	$(PYTHON) -m pytest -q tests/test_workflows.py

pages: $(STAMP)  ## write again what the documentation takes from the code: messages, settings
	$(BIN)/python scripts/write_pages.py

libraries:
	@scripts/system_libraries.sh test

window-libraries:
	@scripts/system_libraries.sh demo

$(STAMP): pyproject.toml constraints.txt hatch_build.py | window-libraries
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with: make PY=python3.12")'
	@[ -x $(BIN)/python ] || $(PY) -m venv $(VENV)
	@echo "Installing into $(VENV), up to 3 GB: nothing is printed for 2 to 10 minutes the first time."
	$(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check -c constraints.txt -e ".[app,test]"
	@$(BIN)/python -m compileall -qq -j 0 -x '$(RARELY_IMPORTED)' $(VENV)/lib || true  # some are for other Pythons
	@touch $@
