"""Models and servers for the tests against vLLM."""

import importlib.util
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NEEDED_BYTES = 6 * (1 << 30)
ON_A_CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A shipped model that vLLM's attention takes; skips where there is no vLLM."""
    if importlib.util.find_spec("vllm") is None:
        if shutil.disk_usage(ROOT).free < NEEDED_BYTES:
            pytest.skip("less than 6 GB of disk is free for vLLM")
        pytest.skip("vLLM is not installed")
    from tests.vllm.widened import save_widened

    return save_widened("pear:affine_chain/base_1", tmp_path_factory.mktemp("widened") / "model")
