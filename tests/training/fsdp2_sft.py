"""What each of two gloo ranks runs for `test_sharded_weights_equal_whole_ones`: steps of a model under `fully_shard`.

`accelerate` has no FSDP on CPUs, so that the model is sharded here, and the loop is that of `Trainer`.
"""

import json
import sys
from pathlib import Path

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from pear.objectives import make_objective
from tests.training.sft_fixtures import pear_trainer
from tests.training.test_every_objective import others_for, rows_for

if __name__ == "__main__":
    directory, objectives, rate = Path(sys.argv[1]), json.loads(sys.argv[2]), float(sys.argv[3])
    for name in objectives:
        objective = make_objective(name, {})
        trainer = pear_trainer(
            directory / name,
            rows_for(objective),
            objective=name,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            trainer=others_for(objective),
        )
        model = trainer.model
        mesh = init_device_mesh("cpu", (2,))
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        model.train()
        for step in range(2):
            trainer.state.global_step = step
            batches, count = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 2, torch.device("cpu"))
            assert len(batches) == 2
            for batch in batches:
                trainer.compute_loss(model, batch, num_items_in_batch=count).backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= rate * parameter.grad
                    parameter.grad = None
        whole = torch.cat([parameter.detach().full_tensor().flatten() for parameter in model.parameters()])
        if trainer.is_world_process_zero():
            torch.save(whole, directory / f"{name}.pt")
    torch.distributed.destroy_process_group()
