# Every target makes and installs what it needs; the second time is quick.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
export PYTHONUNBUFFERED := 1
# with it, each of the many processes that tests start would compile torch and all else that it imports anew
unexport PYTHONDONTWRITEBYTECODE

.PHONY: train real-motion real-motion-images predict test test-plain test-kernels test-interpreted test-compiled test-benchmarks test-slow compile fuzz fuzz-datasets fuzz-others lint bench bench-losses dist hf-kernel docs gpu gpu-cache gpu-rehearsal test-old clean install
install: $(STAMP)

# uv from PATH, or by pip, brings the rest: 25 seconds instead of minutes for torch. With UV_OFFLINE=1 and a uv on PATH
# all comes from its cache, without a network; for that, a uv that pip brought is brought once more
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python >= 3.11 is wanted, $(PYTHON) is {v.major}.{v.minor}: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	@export PATH="$$PATH:$(CURDIR)/$(BIN)"; command -v uv > /dev/null || { again="--reinstall-package uv"; \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv; }; \
	uv pip install --quiet --python $(BIN)/python -c constraints.txt $$again -e '.[dev]'
	@touch $@

train: $(STAMP)
	$(BIN)/python -m unihpe_fast.train

# a short file of keypoints to 3D poses, in every format that needs no further package
predict: $(STAMP)
	$(BIN)/python -m unihpe_fast.predict examples/walk.json --size 1280,720 --fps 30 --out build/predictions --overwrite \
	    --write npz csv json trc bvh html overlay

# all that is not marked slow. Many small problems: on one thread they finish sooner than on several; two parts at a time,
# and whichever ends first makes room for the next, those that compile kernels for GPUs on as many cores as are left
test: $(STAMP)
	$(BIN)/coverage erase
	$(MAKE) -j2 --output-sync=target test-plain test-kernels test-interpreted test-compiled test-benchmarks
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --fail-under=90

COMPILED := tests/kernels/test_compile.py tests/benchmarks/test_static_cost.py
FAST := -m "not slow"
test-plain test-kernels test-interpreted test-compiled test-benchmarks test-slow: export OMP_NUM_THREADS := 1
test-plain: $(STAMP)
	$(BIN)/coverage run -m pytest tests $(FAST) --ignore=tests/kernels --ignore=tests/benchmarks
test-kernels: $(STAMP)
	$(BIN)/coverage run -m pytest tests/kernels $(FAST) --ignore-glob='*/test_triton_*' --ignore=tests/kernels/test_compile.py
test-interpreted: $(STAMP)
	TRITON_INTERPRET=1 $(BIN)/python -m pytest tests/kernels/test_triton_*.py $(FAST)
# in this order: the second finds compiled what the first has
test-compiled: $(STAMP)
	$(BIN)/python -m pytest $(COMPILED)
test-benchmarks: $(STAMP)
	$(BIN)/python -m pytest tests/benchmarks $(FAST) --ignore=tests/benchmarks/test_static_cost.py

# more samples, steps and combinations of what `make test` does with few, and real launches of torchrun
test-slow: $(STAMP)
	$(BIN)/python -m pytest tests -m slow --ignore-glob='*/test_triton_*'
	TRITON_INTERPRET=1 $(BIN)/python -m pytest tests/kernels/test_triton_*.py -m slow

# every variant of every kernel for every architecture that its settings are for, and every part of a model as AOTInductor's
compile: export COMPILE := all
compile: $(STAMP)
	$(BIN)/python -m pytest tests/kernels/test_compile.py
	$(BIN)/python -m pytest tests/engine/test_exported.py -k compiled_ahead

# readers of other people's files against mutated ones: FUZZ of them each, or as many as FUZZ_SECONDS allow, so that it
# ends within half an hour on two cores, however busy they are
FUZZED := tests/data/keypoints tests/data/test_fuzz_files.py tests/engine/test_fuzz_runs.py
fuzz fuzz-datasets fuzz-others: export FUZZ ?= 10000
fuzz fuzz-datasets fuzz-others: export FUZZ_SECONDS ?= 45
fuzz fuzz-datasets fuzz-others: export OMP_NUM_THREADS := 1
fuzz: $(STAMP)
	$(MAKE) -j2 --output-sync=target fuzz-datasets fuzz-others
fuzz-datasets: $(STAMP)
	$(BIN)/python -m pytest tests/data $(addprefix --ignore=,$(FUZZED)) -m fuzz
fuzz-others: $(STAMP)
	$(BIN)/python -m pytest $(FUZZED) -m fuzz

# the splits of real-motion v2 from DATA, a folder with cmu, cmu_more and accad, as OUT/*.h5; people to train on are no
# people to validate on. Without pictures
TRAINED := 01,02,05,07,08,14,49,60,88,94
UNSEEN := 09,11,12,35,61,87,104,131,135
real-motion: OUT ?= real-motion
real-motion: FILM = --views 4 --fps 20 --image-size 0
real-motion: ACCAD = --name accad --licence "ACCAD Open Motion Project, CC BY 3.0"
real-motion: $(STAMP)
	@test -d "$(DATA)/cmu" || { echo "make real-motion DATA=dir: say where the folders cmu, cmu_more and accad are"; exit 2; }
	mkdir -p $(OUT)
	$(BIN)/python -m unihpe_fast.prepare cmu $(DATA)/cmu $(DATA)/cmu_more $(OUT)/cmu-train.h5 \
		--subjects $(TRAINED) $(FILM)
	$(BIN)/python -m unihpe_fast.prepare cmu $(DATA)/cmu $(DATA)/cmu_more $(OUT)/cmu-val.h5 \
		--subjects $(UNSEEN) --split val $(FILM)
	$(BIN)/python -m unihpe_fast.prepare motion $(DATA)/accad $(OUT)/accad-train.h5 --subjects 1003 $(ACCAD) $(FILM)
	$(BIN)/python -m unihpe_fast.prepare motion $(DATA)/accad $(OUT)/accad-val.h5 --subjects 1001 --split val \
		$(ACCAD) $(FILM)

# pictures of those of CMU, as OUT/cmu-images-{train,val}.h5
real-motion-images: OUT ?= real-motion
real-motion-images: PICTURES = --views 2 --fps 2 --image-size 128
real-motion-images: $(STAMP)
	@test -d "$(DATA)/cmu" || { echo "make real-motion-images DATA=dir: say where the folders cmu and cmu_more are"; exit 2; }
	mkdir -p $(OUT)
	$(BIN)/python -m unihpe_fast.prepare cmu $(DATA)/cmu $(DATA)/cmu_more $(OUT)/cmu-images-train.h5 \
		--subjects $(TRAINED) $(PICTURES)
	$(BIN)/python -m unihpe_fast.prepare cmu $(DATA)/cmu $(DATA)/cmu_more $(OUT)/cmu-images-val.h5 \
		--subjects $(UNSEEN) --split val $(PICTURES)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# ratios to the peers, and how time and memory grow; RECORD=benchmarks/results/cpu.json keeps them for the tables
RECORD ?= build/bench.json
bench: $(STAMP)
	mkdir -p $(dir $(RECORD))
	$(BIN)/python -m pytest benchmarks --ignore=benchmarks/test_drop_in.py --benchmark-only --benchmark-columns=median \
	    --record $(RECORD)

# losses under the names of those who published them against their formulas, on one thread
bench-losses: RECORD := benchmarks/results/drop_in-cpu.json
bench-losses: export OMP_NUM_THREADS := 1
bench-losses: $(STAMP)
	$(BIN)/python -m pytest benchmarks/test_drop_in.py --benchmark-only --benchmark-columns=median --record $(RECORD)

# what a release is: a wheel and a source archive; and a wheel of unihpe_kernels alone, without the pipeline and weights
dist: $(STAMP)
	$(BIN)/uv build --quiet --out-dir dist .
	$(BIN)/uv build --quiet --wheel --out-dir dist kernels

# unihpe_kernels for Hugging Face's `kernels`: kernels.get_local_kernel(Path("build/hf-kernel")) loads it
hf-kernel: $(STAMP)
	$(BIN)/python scripts/hf_kernel.py build/hf-kernel

# the pages of docs/ for a browser, in build/docs; a link to nowhere fails
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# the kernels compiled for sm_90 on any machine, for a GPU run that has this folder: some tens of minutes of a core
gpu-cache: CACHE ?= build/triton-cache
gpu-cache:
	PYTHONPATH=.:kernels OMP_NUM_THREADS=1 $(PYTHON) -m benchmarks.gpu.cache $(CACHE)

# the whole GPU run on a CPU, at small sizes, on a clock that runs CLOCK times as slow: shows that every part works,
# or those of STEPS. `make test` goes through three of them
gpu-rehearsal: CLOCK ?= 1
gpu-rehearsal:
	PYTHONPATH=.:kernels $(PYTHON) -m benchmarks.gpu $(or $(OUT),build/gpu-rehearsal) --rehearse --clock $(CLOCK) $(if $(STEPS),--steps $(STEPS))

# the oldest versions that are supported, in an environment of their own: kernels compile, import and are interpreted
OLD := .venv-old
test-old: export OMP_NUM_THREADS := 1
test-old: $(STAMP)
	test -d $(OLD) || $(BIN)/uv venv --quiet --python $(PYTHON) $(OLD)
	$(BIN)/uv pip install --quiet --python $(OLD)/bin/python torch==2.11.0 triton==3.6.0 'numpy<2.4' pytest pytest-benchmark \
	    hypothesis scipy h5py timm safetensors opencv-python-headless rich tqdm matplotlib
	PYTHONPATH=.:kernels $(OLD)/bin/python -m pytest -q tests/kernels/test_without_driver.py tests/kernels/test_tuned.py \
	    tests/benchmarks/test_gpu.py
	TRITON_INTERPRET=1 PYTHONPATH=.:kernels $(OLD)/bin/python -m pytest -q tests/kernels/test_triton_gram.py \
	    tests/kernels/test_triton_svd3x3.py tests/kernels/test_triton_sv_op.py

# on a machine with a GPU, from a bare checkout: uses $(PYTHON) as it is and installs nothing
gpu:
	@test -n "$(OUT)" || { echo "make gpu OUT=dir: say where the results go"; exit 2; }
	@$(PYTHON) -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else "make gpu: torch sees no CUDA device")'
	PYTHONPATH=.:kernels $(PYTHON) -m benchmarks.gpu $(OUT)

clean:
	rm -rf $(VENV) $(OLD) runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
