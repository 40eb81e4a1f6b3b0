"""What each of two gloo ranks runs for `test_two_processes_equal_one`: half of every step's batch."""

import sys
from pathlib import Path

import torch

from tests.training.sft_fixtures import build_rows, pear_trainer

if __name__ == "__main__":
    directory = Path(sys.argv[1])
    trainer = pear_trainer(
        directory / "checkpoints",
        build_rows(16, seed=8),
        model=str(directory / "model"),
        max_steps=3,
        logging_steps=3,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        save_strategy="steps",
        save_steps=3,
    )
    trainer.train()
    trainer.save_model(str(directory / "two"))
    if trainer.is_world_process_zero():
        assert (directory / "checkpoints" / "checkpoint-3" / "COMPLETE").is_file()
        torch.save(trainer.state.log_history[0], directory / "log.pt")
    torch.distributed.destroy_process_group()
