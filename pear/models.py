"""Names of models and recipes that ship with the package."""

from pathlib import Path

from pear.errors import UserError, unknown_name

_PACKAGE = Path(__file__).resolve().parent
_MODELS = _PACKAGE / "shipped_models"
PREFIX = "pear:"


def shipped_models() -> list[str]:
    """Names of the shipped models, such as `pear:affine_chain/base_1`."""
    return sorted(PREFIX + path.parent.relative_to(_MODELS).as_posix() for path in _MODELS.glob("*/*/config.json"))


def resolve_model(name: str) -> str:
    """The directory of a shipped model, an existing directory as it is, or a hub id unchanged.

    >>> resolve_model("Qwen/Qwen3-0.6B-Base")
    'Qwen/Qwen3-0.6B-Base'
    """
    if name.startswith(PREFIX):
        path = _MODELS / name.removeprefix(PREFIX)
        if not (path / "config.json").is_file():
            raise unknown_name("shipped model", name, shipped_models())
        return str(path)
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"{name}: a directory without a model (no config.json in it).")
        if not any(path.glob("*.safetensors")):
            raise UserError(f"{name}: no weights as safetensors in this directory; other formats are not loaded.")
        return name
    if path.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise UserError(f"{name}: no such model directory.")
    return name


def shipped_name(path: str) -> str:
    """The inverse of `resolve_model` for a shipped model's directory, in whatever installation; others unchanged.

    >>> shipped_name("/elsewhere/pear/shipped_models/affine_chain/base_1")
    'pear:affine_chain/base_1'
    """
    _, found, name = path.rpartition(f"/{_MODELS.name}/")
    return PREFIX + name if found else path


def recipes_directory() -> Path:
    """Where the shipped recipes lie: inside an installed package, or beside it in a checkout."""
    installed = _PACKAGE / "recipes"
    return installed if installed.is_dir() else _PACKAGE.parent / "recipes"


def resolve_recipe(path: Path) -> Path:
    """A recipe's file: the path itself, or the shipped recipe of that name (`recipes/demo.yaml` or `demo`)."""
    if path.is_file():
        return path
    known = {recipe.stem: recipe for recipe in recipes_directory().glob("*.yaml")}
    if path.stem in known and path in (Path(path.stem), Path("recipes") / f"{path.stem}.yaml"):
        return known[path.stem]
    raise UserError(f"{path}: no such file. Shipped recipes: {', '.join(sorted(known)) or 'none'}.")
