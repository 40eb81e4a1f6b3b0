"""`python recipes/ship_tiny_models.py STUDY` copies the models of a `*_models.yaml` study into the package."""

import json
import shutil
import sys
from pathlib import Path

SHIPPED = Path(__file__).resolve().parent.parent / "pear" / "shipped_models"
FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


def main(study_dir: Path) -> None:
    """One folder a model: `behavior`, `base_0`, ..."""
    plan = json.loads((study_dir / "plan.json").read_text())
    game = plan["name"].removesuffix("_models")
    for node in plan["nodes"]:
        if node["stage"] != "pretrain":
            continue
        target = SHIPPED / game / node["uses"][0]["base"]
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in FILES:
            shutil.copy(study_dir / node["dir"] / name, target / name)
        manifest = json.loads((study_dir / node["dir"] / "manifest.json").read_text())
        manifest["config"]["output_dir"] = node["dir"]
        (target / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
        print(target.relative_to(SHIPPED.parent))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
