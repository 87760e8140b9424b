"""The rules of docs/architecture.md, read from the source.

The order of packages, imports without effect, nothing executed, unique names, documented parameters, and a page that
says what is there. `python tests/test_architecture.py` writes the page's table of modules.
"""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ("train", "val", "detect", "export", "heatmap", "compare", "hubconf", "demo")
# The one statement of the order: a package imports only from itself and from those before it, lazy imports included.
# An entry is a package, a module, or (name, its modules) where a folder that the user fixed holds several layers. The
# longest prefix wins; a `__main__` is a script and stands at the end, with the `_command` that it calls.
ORDER = (
    "utils",
    "utils.config",
    "utils.metrics",
    "utils.statistics",
    ("models: recording", ("models.recording",)),
    "models.attention.ops",
    (
        "models: blocks",
        (
            "models.identity_start",
            "models.undrawn",
            "models.norms",
            "models.aliases",
            "models.arguments",
            "models.row_reading",
            "models.registry",
            "models.layers",
            "models.mobilenet",
            "models.head",
        ),
    ),
    "models.attention",
    ("models: every block", ("models.c3_attention", "models.every_block")),
    "models.graph",
    "utils.profile",
    ("models: networks", ("models", "models.yolo", "models.ensemble", "models.inference")),
    "models.zoo",
    "utils.checkpoint",
    "utils.transfer",
    "utils.plots",
    "utils.pages",
    "utils.datasets",
    "utils.datasets.check",
    "utils.datasets.convert",
    "utils.runtimes",
    "utils.export",
    "utils.heatmaps",
    "utils.engine",
    "utils.compare.results",
    "utils.compare.report",
    "utils.compare",
    "utils.compat",
    "utils.serve",
    (
        "names of YOLOv5",
        (
            "models.common",
            "models.experimental",
            "utils.general",
            "utils.torch_utils",
            "utils.augmentations",
            "utils.autoanchor",
            "utils.dataloaders",
            "utils.downloads",
            "utils.google_utils",
        ),
    ),
    ("scripts", SCRIPTS),
)
LIGHT = ("utils.config", "utils.cli", "utils.files", "utils.errors", "utils.language", "utils.log", *SCRIPTS[:-1])
IMAGE_PACKAGES = {"cv2", "matplotlib", "PIL"}
PACKAGES_WITH_IMAGES = (
    *("utils.images", "utils.plots", "utils.pages", "utils.datasets", "utils.engine", "utils.compare", "utils.compat"),
    "utils.serve",
    "utils.general",  # hands out cv2, as YOLOv5's does
)
# They have names of YOLOv5's modules, taken from utils.compat when asked for: it is imported for type checkers alone.
BORROWERS = ("utils.datasets", "utils.plots", "utils.metrics", "utils.loss", "models.yolo")
PAGE = ROOT / "docs" / "architecture.md"
MARKERS = ("<!-- made by `python tests/test_architecture.py`: modules -->", "<!-- end: modules -->")
COLLAPSED = {"models.attention": "one mechanism per file ([attention.md](attention.md))"}
MAX_PARAMETERS = 8
PUBLISHED_ORDER = {  # what is called by position has the parameters of the original
    *("models.attention.deformable", "utils.compat.box_functions", "utils.compat.augmenting"),
    "utils.compat.training_data",
}
MAY_REPEAT = {"__init__", "__main__", "types"}
OF_SCRIPTS = (".__main__", "_command")
CALLS_THAT_EXECUTE = ("eval", "exec", "os.system", "os.popen", "compile", "__import__")
STATEMENTS_WITHOUT_EFFECT = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def sources() -> dict[str, ast.Module]:
    """Return the parsed source of every module by name."""
    paths = [path for top in ("models", "utils") for path in sorted((ROOT / top).rglob("*.py"))]
    paths += [ROOT / f"{name}.py" for name in SCRIPTS]
    return {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


@cache
def places() -> dict[str, int]:
    """Return module or package prefix -> its place in ORDER."""
    entries = [entry[1] if isinstance(entry, tuple) else (entry,) for entry in ORDER]
    return {name: place for place, names in enumerate(entries) for name in names}


def place_of(module: str) -> int:
    """Return the place of a module in ORDER."""
    if module.endswith(OF_SCRIPTS):
        return len(ORDER) - 1
    prefixes = [prefix for prefix in places() if module == prefix or module.startswith(prefix + ".")]
    return places()[max(prefixes, key=len)]


def imports(module: str) -> Iterator[tuple[int, str]]:
    """Yield line and full name of what a module imports of ours, as modules where it imports names of one."""
    for node in ast.walk(sources()[module]):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{module}:{node.lineno}: imports are absolute"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            targets = [name if name in sources() else node.module for name in inner]
        else:
            continue
        yield from ((node.lineno, target) for target in targets)


def test_a_package_imports_only_from_those_before_it():
    upward = [
        f"{module}:{line} imports {target}"
        for module in sources()
        for line, target in imports(module)
        if target in sources() and place_of(target) > place_of(module)
        if not (module in BORROWERS and target.startswith("utils.compat") and line in lines_for_types(module))
    ]
    assert not upward


def lines_for_types(module: str) -> set[int]:
    """Return the lines below `if TYPE_CHECKING:`."""
    guards = [node for node in sources()[module].body if isinstance(node, ast.If) and is_guarded(node)]
    return {line for node in guards for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}


def test_the_order_names_only_what_there_is():
    known = {*sources(), *(name.rpartition(".")[0] for name in sources())}
    assert [name for name in places() if name not in known] == []


def test_images_and_plots_are_read_and_drawn_in_few_packages():
    outside = [
        f"{module}:{node.lineno}"
        for module, tree in sources().items()
        if not module.startswith(PACKAGES_WITH_IMAGES)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module])
        if name.split(".")[0] in IMAGE_PACKAGES
    ]
    assert not outside


def test_loss_nms_and_metrics_do_not_know_models():
    named = ("utils.loss", "utils.box_losses", "utils.nms", "utils.boxes", "utils.metrics")
    wrong = [
        f"{module} imports {name}"
        for module in sources()
        if module.startswith(named)
        for _, name in imports(module)
        if name.startswith("models")
    ]
    assert not wrong


def test_nothing_is_executed_and_nothing_is_swallowed():
    assert not [fault for module, tree in sources().items() for fault in executed_or_swallowed(module, tree)]


def executed_or_swallowed(module: str, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in CALLS_THAT_EXECUTE or called.startswith(("subprocess.", "sys.path.")):
                yield f"{module}:{node.lineno} calls {called}"
        elif isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "BaseException"
            reraises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
            if caught in ("Exception", "BaseException") and not reraises:
                yield f"{module}:{node.lineno} catches {caught}"
        elif isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            yield from [] if module == "models.common" else [f"{module}:{node.lineno} star import"]


def test_modules_hold_only_definitions_constants_and_imports():
    """A bare call at module level would be an effect of importing."""
    acting = [
        f"{module}:{node.lineno} {ast.unparse(node)[:60]}"
        for module, tree in sources().items()
        for node in tree.body
        if not isinstance(node, STATEMENTS_WITHOUT_EFFECT) and not is_docstring(node) and not is_guarded(node)
    ]
    assert not acting


def is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def is_guarded(node: ast.stmt) -> bool:
    """`if TYPE_CHECKING:` and `if __name__ == "__main__":` do nothing when a module is imported."""
    return isinstance(node, ast.If) and ast.unparse(node.test).startswith(("TYPE_CHECKING", "__name__ == "))


def test_every_module_says_what_it_owns():
    assert [module for module, tree in sources().items() if tree.body and not ast.get_docstring(tree)] == []


def test_the_page_has_the_modules_as_they_are():
    """`python tests/test_architecture.py` writes the table."""
    assert PAGE.read_text(encoding="utf-8") == with_module_table(PAGE.read_text(encoding="utf-8"))


def with_module_table(page: str) -> str:
    """Return the page with the table of packages and modules as the source has them."""
    before, _, rest = page.partition(MARKERS[0])
    _, _, after = rest.partition(MARKERS[1])
    return f"{before}{MARKERS[0]}\n{module_table()}\n{MARKERS[1]}{after}"


def module_table() -> str:
    rows = ["| package | module | what it is |", "| --- | --- | --- |"]
    for place, entry in enumerate(ORDER):
        name = entry[0] if isinstance(entry, tuple) else entry
        modules = sorted(module for module in sources() if place_in_table(module) == place)
        shown = [module for module in modules if sources()[module].body]
        if name in COLLAPSED:
            rows.append(f"| `{name}` | {len(shown) - 1} files | {first_line(name)[:-1]}; {COLLAPSED[name]} |")
            continue
        rows += [f"| `{name}` | {short_name(module, name)} | {first_line(module)} |" for module in shown]
    return "\n".join(rows)


def place_in_table(module: str) -> int:
    """Modules of a script stand with their package there."""
    return place_of(module.rpartition(".")[0] if module.endswith(OF_SCRIPTS) else module)


def short_name(module: str, package: str) -> str:
    if module == package:
        return "–"
    return f"`{module.removeprefix(package + '.') if package in module else module}`"


def first_line(module: str) -> str:
    return (ast.get_docstring(sources()[module]) or "").splitlines()[0].replace("|", "\\|")


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Return the names of all parameters but self and cls; `**options` and `*values` do not count."""
    arguments = function.args
    names = [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef, bool, tuple[str, ...]]]:
    """Yield module, function, whether it is public, and the bases of its class."""
    for module, tree in sources().items():
        yield from functions_in(module, tree, True, ())


def functions_in(module: str, node: ast.AST, public: bool, bases: tuple[str, ...]) -> Iterator:
    for child in ast.iter_child_nodes(node):
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        if is_function:
            yield module, child, public and not child.name.startswith("_"), bases
        inner = public and not is_function and not getattr(child, "name", "").startswith("_")
        own_bases = tuple(ast.unparse(base) for base in child.bases) if isinstance(child, ast.ClassDef) else bases
        yield from functions_in(module, child, inner, own_bases)


def test_no_function_has_more_than_eight_parameters():
    many = [
        f"{module}:{function.lineno} {function.name} has {len(parameters(function))}"
        for module, function, _, _ in functions()
        if len(parameters(function)) > MAX_PARAMETERS and module not in PUBLISHED_ORDER
    ]
    assert not many


def test_public_functions_describe_their_parameters():
    """Two parameters or more: `Args:` names each, and `Returns:` or `Yields:` says what comes back.

    A method that overrides a documented one of the tree (a hook) has its description there.
    """
    described = {function.name for _, function, public, _ in functions() if public and "Args:" in docstring(function)}
    missing = [
        f"{module}:{function.lineno} {function.name}: {fault}"
        for module, function, public, bases in functions()
        if public
        and len(parameters(function)) > 1
        and not (bases and function.name in described and not docstring(function))
        for fault in docstring_faults(function)
    ]
    assert not missing


def docstring(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    return ast.get_docstring(function) or ""


def docstring_faults(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    text = docstring(function)
    _, has_section, section = text.partition("Args:")
    if not has_section:
        yield "lacks Args:"
    unnamed = [name for name in parameters(function) if not re.search(rf"^\s+\**{name}\b.*:", section, re.M)]
    if has_section and unnamed:
        yield f"Args lacks {', '.join(unnamed)}"
    returns = ast.unparse(function.returns) if function.returns else "None"
    if returns not in ("None", "NoReturn") and not re.search(r"^(Returns|Yields):", text, re.M):
        yield "lacks Returns:"


def test_module_names_are_unique():
    stems = Counter(module.rpartition(".")[2] for module in sources() if module not in ("models", "utils"))
    packages = {name for name in stems if any(module.rpartition(".")[0].endswith(f".{name}") for module in sources())}
    twice = {name for name, count in stems.items() if count > 1 and name not in MAY_REPEAT}
    assert twice - packages == set()


def test_class_names_are_unique():
    names = Counter(node.name for tree in sources().values() for node in tree.body if isinstance(node, ast.ClassDef))
    assert [name for name, count in names.items() if count > 1] == []


def test_every_module_imports_without_effect(tmp_path):
    """All modules at once, in a fresh process with an empty folder: no file, no output, no path change."""
    names = [name for name in sources() if not name.endswith("__main__")]
    code = (
        "import sys, importlib, logging, torch, torchvision, cv2, yaml\n"  # whose own effects are not ours
        f"sys.path.insert(0, {str(ROOT)!r}); before = list(sys.path)\n"
        "seed = torch.initial_seed(); threads = torch.get_num_threads()\n"
        f"[importlib.import_module(name) for name in {names!r}]\n"
        "assert sys.path == before and torch.initial_seed() == seed and torch.get_num_threads() == threads\n"
        "assert torch.get_default_dtype() == torch.float32 and not logging.getLogger('yolo').handlers\n"
        "assert not {'pycocotools', 'tensorboard', 'matplotlib'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and not list(tmp_path.iterdir())


def test_a_detection_imports_neither_torchvision_nor_torchs_compiler(tmp_path):
    """Either import takes as long as torch's own."""
    code = (
        "import sys, torch; from utils.engine import detection, validation; from utils.nms import non_max_suppression\n"
        "rows = torch.tensor([[[50.0, 50, 20, 20, 0.9, 1], [51, 50, 20, 20, 0.8, 1]]])\n"
        "assert len(non_max_suppression(rows)[0]) == 1\n"
        "unwanted = {'torchvision', 'torch._dynamo', 'sympy', 'thop', 'matplotlib', 'pandas', 'tensorboard'}\n"
        "print(sorted(unwanted & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stdout + done.stderr


def test_flags_are_answered_before_torch_is_imported():
    """All at once: none of them imports a heavy package."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {', '.join(LIGHT)}\n"
        "print(sorted({'torch', 'cv2', 'numpy', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


if __name__ == "__main__":
    PAGE.write_text(with_module_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
