"""Package structure: `import minilora` is light, packages import only from lower layers, and the public names exist."""

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

# The layers of minilora, from the lowest up. A package may import from lower layers, but not from its own layer.
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
LATER = {"studies", "serving"}  # planned packages, which need no layer yet
LIGHT = {"numpy", "minilora"} | set(sys.stdlib_module_names)
ABOUT = {"minilora.laws.kit.implementations.peft": {"torch", "peft"}}  # imported only for PEFT's layer
HEAVY = ["safetensors", "tqdm", "platformdirs", "threadpoolctl", "matplotlib", "hypothesis", "tokenizers", "torch"]


def room(module):
    """The top-level package of a module: `minilora.nn.layers` -> `nn`, and `minilora` itself -> ``."""
    return [*module.split("."), ""][1]


def imports(module, top_level=False):
    """Yield the absolute names of a module's imports; with `top_level`, only those that run when it is imported."""
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
    """Yield the statements that run when a module is imported: no function bodies and no `if TYPE_CHECKING` blocks."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from importing(child)


def test_every_package_has_a_layer():
    rooms = {room(module) for module in MODULES} - {"", "__main__"}
    assert rooms - LATER == set(MAY_IMPORT)
    assert len(MODULES) > 30


@pytest.mark.parametrize("module", [module for module in MODULES if room(module) in MAY_IMPORT])
def test_packages_import_only_from_lower_layers(module):
    """Imports inside functions and imports for type checkers only are included."""
    used = {room(name) for name in imports(module) if name.split(".")[0] == "minilora"}
    used.discard("")  # the package itself, for its version
    assert used <= MAY_IMPORT[room(module)] | {room(module)}


def test_no_file_imports_one_that_imports_it():
    """No import cycles, direct or indirect. The __init__.py files, which import from their package, are not counted."""
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
    """Everything else is imported inside the functions that use it."""
    assert {name.split(".")[0] for name in imports(module, top_level=True)} <= LIGHT | ABOUT.get(module, set())


@pytest.mark.parametrize(
    "module", ["minilora", "minilora.lora", "minilora.training", "minilora.generation", "minilora.laws", "minilora.cli"]
)
def test_nothing_heavy_is_loaded(module):
    """The same check in a fresh interpreter."""
    script = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert ("numpy" in loaded) == (module != "minilora")  # a Ctrl-C while NumPy is loaded is handled by the command
    assert not set(loaded) & set(HEAVY)


def test_the_names_are_listed_and_no_other_is_there():
    assert set(minilora.__all__) <= set(dir(minilora))
    with pytest.raises(AttributeError, match="module 'minilora' has no attribute 'loar'"):
        minilora.loar  # noqa: B018
    script = "import minilora; minilora.lora.inject(minilora.load_model()); from minilora import laws, write"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_import_loads_almost_nothing():
    script = "import sys, minilora; print(*sorted(name for name in sys.modules if name.startswith('minilora.')))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert {room(name) for name in loaded} <= {"family", "registry"}


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
def test_a_package_has_its_public_names_and_a_docstring(module):
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
