# Each target is one line that a person can also type. Run them inside a virtual environment.
.PHONY: help build check test demo bench estimators tables ulp crash large onnx c twins golden

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /: /'

build: ## build the extension into the source tree, for development
	pip install -q maturin && maturin develop --release

check: ## formatting, lints, types
	cargo fmt --check && cargo clippy --workspace --all-targets -- -D warnings && ruff check . && ruff format --check . && mypy && python -m mypy.stubtest ranvier._core

test: ## install with the test extra and run every test
	pip install ".[test]" && cargo test --workspace && pytest

demo: ## install and run the main job
	pip install . && ranvier demo

bench: ## install the peers, time everything beside them (tens of minutes)
	pip install ".[peers]" && python benches/compare.py && cargo bench --workspace

estimators: ## speed of the drop-ins beside scikit-learn's own (minutes)
	pip install ".[test]" && python benches/estimators.py

tables: ## accuracy and coverage of the tabular estimators beside scikit-learn's (tens of minutes)
	pip install ".[test]" && python benches/tables.py

ulp: ## errors of the elementary functions over all 2^32 float32 inputs (minutes)
	RUSTFLAGS="-C target-feature=+fma,+avx2" cargo run --release -p ranvier-core --example ulp --target-dir target/ulp

crash: ## kill saves 1,000 times and at every call of the system, fail each call (a minute; needs strace)
	RANVIER_KILLS=1000 RANVIER_STRACE=1 pytest -s tests/test_files.py -k "kill_9 or system_call"

large: ## train from a Parquet file of 6 GB in a process of 600 MB (a minute)
	RANVIER_LARGE=1 pytest -s tests/test_data.py -k ten_times_larger

onnx: ## 500 random networks as ONNX, run by onnxruntime; 2,000 changed graphs read (a minute)
	RANVIER_NETWORKS=500 pytest -s tests/test_onnx.py -k random_networks
	RANVIER_CHANGES=2000 pytest tests/test_from_onnx.py -k changed_graphs

c: ## compile 200 random networks by every C compiler that is there, compare the bits (minutes)
	RANVIER_NETWORKS=200 pytest tests/test_export_c.py --timeout 1000

twins: ## draw 2,000 correct twins in each of torch, Keras and scikit-learn: none is accused (minutes)
	RANVIER_TWINS=2000 pytest --timeout 3600 tests/test_crosscheck_against.py -k drawn

golden: ## rewrite the golden hashes after a change of the numerics version
	python tests/test_determinism.py --write
