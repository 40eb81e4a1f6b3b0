"""Is a solution the only one? OR-tools answers from a model that a test writes."""

from collections.abc import Callable, Hashable, Mapping

from ortools.sat.python import cp_model

Build = Callable[[], tuple[cp_model.CpModel, Mapping[Hashable, cp_model.IntVar]]]


def _solve(model: cp_model.CpModel, cells: Mapping[Hashable, cp_model.IntVar]) -> dict[Hashable, int] | None:
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    status = solver.solve(model)
    assert status in (cp_model.OPTIMAL, cp_model.FEASIBLE, cp_model.INFEASIBLE)
    return None if status == cp_model.INFEASIBLE else {cell: solver.value(item) for cell, item in cells.items()}


def another_solution(build: Build, known: Mapping[Hashable, int]) -> dict[Hashable, int] | None:
    """A solution that differs from the known one in some cell; None where there is none. `build` makes the model and
    its cells anew; that the known solution is one is checked too."""
    model, cells = build()
    for cell, value in known.items():
        model.add(cells[cell] == value)
    assert _solve(model, cells) == dict(known)
    model, cells = build()
    differs = []
    for cell, value in known.items():
        differs.append(model.new_bool_var(f"differs {cell}"))
        model.add(cells[cell] != value).only_enforce_if(differs[-1])
    model.add_bool_or(differs)
    return _solve(model, cells)
