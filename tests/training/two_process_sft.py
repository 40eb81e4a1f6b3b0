"""What each of two gloo ranks runs for `test_two_processes_equal_one`: half of every step's batch."""

import json
import sys
from pathlib import Path

import torch

from tests.training.sft_fixtures import build_rows, pear_trainer

if __name__ == "__main__":
    directory, objectives = Path(sys.argv[1]), json.loads(sys.argv[2])
    for objective in objectives:
        output = directory / objective
        rows = build_rows(16, seed=8)
        if objective == "negatives":
            rows = [{**row, "correct": index % 4 != 0} for index, row in enumerate(rows)]
        trainer = pear_trainer(
            output / "checkpoints",
            rows,
            objective=objective,
            model=str(directory / "model"),
            max_steps=3,
            logging_steps=3,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            learning_rate=1e-3,
            save_strategy="steps",
            save_steps=3,
        )
        trainer.train()
        trainer.save_model(str(output / "two"))
        if trainer.is_world_process_zero():
            assert (output / "checkpoints" / "checkpoint-3" / "COMPLETE").is_file()
            torch.save(trainer.state.log_history[0], output / "log.pt")
    torch.distributed.destroy_process_group()
