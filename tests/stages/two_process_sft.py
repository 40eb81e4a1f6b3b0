"""What each of two gloo ranks runs for `test_two_processes_write_one_run`: the stage, with the same configuration."""

import json
import sys

import torch

from pear.stages.sft import SftConfig, run

if __name__ == "__main__":
    run(SftConfig(**json.loads(sys.argv[1])))
    torch.distributed.destroy_process_group()
