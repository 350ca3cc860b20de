"""The house: `import minilora` is light, rooms depend on those below them alone, and the promised names are there."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import minilora

ROOT = Path(minilora.__file__).parent
MODULES = {
    ".".join(("minilora", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}

# The floors of the house, from the ground up: a room may import what lies below it, and nothing beside it.
FLOORS = [
    ["backend", "files", "messages", "threads", "registry", "assets"],
    ["autograd", "data"],
    ["nn"],
    ["adapters"],
    ["lora"],
    ["training", "generation"],
    ["family"],
    ["laws", "voices", "runs"],
    ["app"],
    ["cli"],
]
MAY_IMPORT = {room: set().union(*FLOORS[:i]) for i, rooms in enumerate(FLOORS) for room in rooms}
MAY_IMPORT["data"] = {"files", "messages"}
LATER = {"studies", "serving"}  # rooms planned, and tested with these then
LIGHT = {"numpy", "minilora"} | set(sys.stdlib_module_names)
ABOUT = {"minilora.laws.kit.implementations.peft": {"torch", "peft"}}  # loaded by who asks for PEFT's layer
HEAVY = ["safetensors", "tqdm", "platformdirs", "threadpoolctl", "matplotlib", "hypothesis", "tokenizers", "torch"]


def room(module):
    """`minilora.nn.layers` -> `nn`; `minilora` itself is the room ``."""
    return [*module.split("."), ""][1]


def imports(module, top_level=False):
    """The modules that a module imports, as absolute names; with `top_level`, only as it is itself imported."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    nodes = list(importing(tree)) if top_level else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            for alias in node.names:  # `from minilora.nn import pretrained` imports a module
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module


def importing(node):
    """The statements that run when a module is imported: no function bodies, nothing for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from importing(child)


def test_every_room_is_known():
    rooms = {room(module) for module in MODULES} - {"", "__main__"}
    assert rooms - LATER == set(MAY_IMPORT)
    assert len(MODULES) > 30


@pytest.mark.parametrize("module", [module for module in MODULES if room(module) in MAY_IMPORT])
def test_rooms_depend_on_those_below_them(module):
    """Wherever the import stands, in a function or for type checkers alone too."""
    used = {room(name) for name in imports(module) if name.split(".")[0] == "minilora"}
    used.discard("")  # the package itself, for its version
    assert used <= MAY_IMPORT[room(module)] | {room(module)}


def test_no_file_imports_one_that_imports_it():
    """Directly or by way of others. A package's __init__.py, which gathers its files, is not counted."""
    files = {module for module, path in MODULES.items() if path.name != "__init__.py"}
    needs = {module: set(imports(module)) & files for module in files}
    done: set[str] = set()

    def visit(module, path=()):
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for name in sorted(needs[module]):
                visit(name, (*path, module))
            done.add(module)

    for module in sorted(files):
        visit(module)


@pytest.mark.parametrize("module", MODULES)
def test_only_numpy_and_the_standard_library_are_loaded_by_an_import(module):
    """Everything else is imported where it is used."""
    assert {name.split(".")[0] for name in imports(module, top_level=True)} <= LIGHT | ABOUT.get(module, set())


@pytest.mark.parametrize(
    "module", ["minilora", "minilora.lora", "minilora.training", "minilora.generation", "minilora.laws", "minilora.cli"]
)
def test_nothing_heavy_is_loaded(module):
    """The same from outside, in a fresh interpreter."""
    script = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "numpy" in loaded
    assert not set(loaded) & set(HEAVY)


def test_the_names_are_listed_and_no_other_is_there():
    assert set(minilora.__all__) <= set(dir(minilora))
    with pytest.raises(AttributeError, match="module 'minilora' has no attribute 'loar'"):
        minilora.loar  # noqa: B018
    script = "import minilora; minilora.lora.inject(minilora.load_model()); from minilora import laws, write"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_import_loads_no_more_than_autograd():
    script = "import sys, minilora; print(*sorted(name for name in sys.modules if name.startswith('minilora.')))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert {room(name) for name in loaded} <= {"autograd", "backend", "family", "registry"}


PUBLIC = {
    "minilora": [
        *("Tensor", "no_grad", "gradients", "__version__", "load_model", "load_ids", "train", "write", "compare"),
        *("get_peft_model", "lora", "nn", "data", "training", "generation", "family", "laws", "voices", "runs"),
    ],
    "minilora.nn": ["Llama", "LlamaConfig"],
    "minilora.lora": [
        *("LoraConfig", "inject", "report", "set_active", "disabled", "merge", "unmerge", "save_adapter"),
        *("load_adapter", "LoraLinear", "AdapterError", "merge_and_unload", "unload", "mix"),
        *("PeftModel", "get_peft_model"),
    ],
    "minilora.training": ["AdamW", "TrainingConfig", "train", "evaluate", "CheckpointError", "TrainingError"],
    "minilora.generation": ["Sampler", "generate", "stream", "write", "write_stream"],
    "minilora.laws": ["LAWS", "catalogue", "check", "run"],
    "minilora.voices": ["NAMES", "attach", "compare", "stream", "voice_folder", "voices"],
    "minilora.data": ["load_corpus", "split", "ByteTokenizer", "CorpusError"],
}


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in PUBLIC.items() for name in names])
def test_the_public_names_are_there(module, name):
    assert hasattr(importlib.import_module(module), name)


@pytest.mark.parametrize("name", ["from_pretrained", "loss", "save_pretrained", "state_dict", "load_state_dict"])
def test_the_models_methods_are_there(name):
    assert callable(getattr(importlib.import_module("minilora.nn").Llama, name))


@pytest.mark.parametrize("module", [name for name, path in MODULES.items() if path.name == "__init__.py"])
def test_what_a_room_promises_it_has(module):
    loaded = importlib.import_module(module)
    for name in getattr(loaded, "__all__", []):
        assert hasattr(loaded, name)
    assert loaded.__doc__


@pytest.mark.parametrize("error", ["AdapterError", "CorpusError", "CheckpointError", "TrainingError"])
def test_the_packages_errors_are_value_errors(error):
    (home,) = [module for module, names in PUBLIC.items() if error in names]
    assert issubclass(getattr(importlib.import_module(home), error), ValueError)


@pytest.mark.parametrize("file", ["py.typed", "minilora.mplstyle", "data/pastiche.toml", "runs/presets/demo.toml"])
def test_files_that_are_no_modules_are_shipped(file):
    assert (ROOT / file).is_file()


def test_every_module_says_what_it_is_for():
    for module, path in MODULES.items():
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), module


def test_python_m_minilora():
    command = [sys.executable, "-m", "minilora", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"minilora {minilora.__version__}\n"
