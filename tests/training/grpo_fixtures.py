"""A tiny model that half knows twelve problems: a random one is never rewarded, and GRPO would not move it."""

from pathlib import Path

import torch

from pear.tasks import TASKS
from pear.tasks.problems import ProblemSet, load_problems
from pear.training.tiny_models import build_model, build_tokenizer

TASK = TASKS["tiny/affine_chain"]
PROBLEM_SET = ProblemSet(task=TASK.name, level="n2", split="rl", size=12)
PROBLEMS = load_problems([PROBLEM_SET])


def save_solver(path: Path, *, seed: int, until: float = 0.2) -> str:
    """A Qwen3 of 29,000 parameters, trained on the solver's traces of `PROBLEMS` until their NLL is below `until`."""
    tokenizer = build_tokenizer(TASK.vocabulary)
    torch.manual_seed(seed)
    model = build_model(tokenizer, hidden_size=32, num_layers=2, num_heads=2)
    turns = [[*problem.prompt, {"role": "assistant", "content": TASK.solve(problem)}] for problem in PROBLEMS]
    texts = [tokenizer.apply_chat_template(turn, tokenize=False).strip() for turn in turns]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    assistant = batch["input_ids"] == tokenizer.convert_tokens_to_ids("<|assistant|>")
    is_completion = assistant.cumsum(dim=1).bool() & ~assistant & batch["attention_mask"].bool()
    labels = batch["input_ids"].masked_fill(~is_completion, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(200):
        loss = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
        if loss < until:
            break
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)
