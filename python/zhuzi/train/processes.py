"""The processes that train together: what each holds, and how gradients become a step.

Each holds the whole model and exchanges gradients (torch's DistributedDataParallel); or each has a share of
the optimiser's states and gradients (DeepSpeed's ZeRO); or of all parameters (torch's FSDP). Weights and
states are given and taken whole, by name: a checkpoint does not depend on how its run was divided.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import Any

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState

from zhuzi._process import launched
from zhuzi.errors import TrainingError
from zhuzi.model.folder import first_line
from zhuzi.train.base import compute_dtype, trainable
from zhuzi.train.progress import tell
from zhuzi.train.recipe import Recipe
from zhuzi.train.schedule import make_optimizer
from zhuzi.train.sharding import deepspeed_settings

_PRECISION = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}
_DISTRIBUTED: Any = getattr(torch.distributed, "DistError", ())  # torch may be built without it
_MOMENTS = ("exp_avg", "exp_avg_sq")  # what AdamW keeps of a parameter, beside the number of its steps

States = Mapping[str, Mapping[str, Any]]


class Processes:
    """One process alone, or several that each hold the whole model."""

    shares_evaluation = True
    """Whether processes can evaluate different examples, and different numbers of them."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        AcceleratorState._reset_state()  # the stage before may have been divided in another way
        compute = compute_dtype()
        try:
            self.accelerator = Accelerator(
                mixed_precision=_PRECISION[compute], cpu=compute == torch.float32, **self._plugins()
            )
        except _DISTRIBUTED as error:  # such as a port that is taken: no process is lost yet
            raise TrainingError(
                f"the {launched()} processes of this run cannot reach each other ({first_line(error)}); "
                "MASTER_ADDR and MASTER_PORT say where, and the launcher sets them"
            ) from error
        self.accelerator.gradient_accumulation_steps = 1  # a launcher's setting would divide the loss again
        self.number: int = self.accelerator.num_processes
        if self.number != launched():  # each would train alone, and write over the others
            raise TrainingError(f"{launched()} processes were launched, and accelerate joins {self.number}")
        self.process: int = self.accelerator.process_index
        self.device: torch.device = self.accelerator.device
        self.wait = self.accelerator.wait_for_everyone
        self.scaler = self.accelerator.scaler
        self.model: Any = None  # what is called with a batch
        self.optimizer: Any = None
        self.named: list[tuple[str, torch.nn.Parameter]] = []

    def _plugins(self) -> dict[str, Any]:
        return {}

    def prepare(self, model: torch.nn.Module) -> None:
        """Take a model that has its weights, and make its optimiser."""
        optimizer = make_optimizer(trainable(model), self.recipe)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.named = trainable(model)

    def backward(self, loss: Callable[[], torch.Tensor], *, last: bool) -> torch.Tensor:
        """Compute a micro batch's loss and its gradients; the loss.

        Gradients become the mean over processes of those of `loss`; `last` is true at a step's last micro
        batch.
        """
        with nullcontext() if last else self.accelerator.no_sync(self.model):
            value = loss()
            self.accelerator.backward(value)
        return value.detach()

    def step(self, check: Callable[[float], None]) -> float:
        """Scale the gradients down to the recipe's norm and do an optimiser step; their norm before that.

        `check` is given the norm, and raises for one with which the step must not be done.
        """
        bound = self.recipe.max_grad_norm or float("inf")
        norm = float(_whole(self.accelerator.clip_grad_norm_([p for _, p in self.named], bound)))
        # Under fp16 the scaler expects infinities, skips the step and halves its scale. At a scale below 1 it
        # was not the scale that made the gradient overflow.
        if self.scaler is None or (norm - norm != 0 and self.scaler.get_scale() < 1):
            check(norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """The sum over all processes."""
        if self.number == 1:
            return value
        total: torch.Tensor = self.accelerator.reduce(value.to(self.device), "sum")
        return total

    def weights(self) -> dict[str, torch.Tensor]:
        """What trains, whole, by name. Called by every process."""
        return {name: _whole(parameter.detach()) for name, parameter in self.named}

    def states(self) -> dict[str, dict[str, Any]]:
        """The optimiser's state of each parameter, whole, by name. Called by every process."""
        held = self.optimizer.state
        return {
            name: {key: _whole(value) for key, value in held[p].items()}
            for name, p in self.named
            if p in held
        }

    def set_states(self, states: States) -> None:
        """Put back what `states` gave."""
        names = {id(p): name for name, p in self.named}
        order = [(names[id(p)], p) for group in self.optimizer.param_groups for p in group["params"]]
        require_known(states, names.values())
        groups = self.optimizer.state_dict()["param_groups"]
        state = {
            i: {key: _divided_as(value, parameter) for key, value in states[name].items()}
            for i, (name, parameter) in enumerate(order)
            if name in states
        }
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        _page_again(self.optimizer)


class ZeroProcesses(Processes):
    """Each process has a share of the optimiser's states and, at stage 2, of the gradients (DeepSpeed)."""

    def prepare(self, model: torch.nn.Module) -> None:
        if compute_dtype() == torch.float16:
            raise TrainingError(
                "deepspeed: needs GPUs that compute in bfloat16, because its loss scale for fp16 is in no "
                "checkpoint; leave it out"
            )
        deepspeed = _load_deepspeed()
        self.named = trainable(model)
        optimizer = make_optimizer(self.named, self.recipe)
        prepared = self.accelerator.prepare_model(model, evaluation_mode=True)  # autocast, and no more
        settings = deepspeed_settings(self.recipe, self.number, model.config.hidden_size)
        try:
            with redirect_stdout(io.StringIO()):  # each process would say what it has built
                self.model, self.optimizer, *_ = deepspeed.initialize(
                    model=prepared, optimizer=optimizer, config=settings
                )
        except Exception as error:  # its own checks of settings, and a compiler that it does not find
            why = " ".join(str(error).split())[:300] or type(error).__name__
            raise TrainingError(f"deepspeed: cannot start ({why})") from error
        self._make_states()

    def backward(self, loss: Callable[[], torch.Tensor], *, last: bool) -> torch.Tensor:
        self.model.set_gradient_accumulation_boundary(last)
        value = loss()
        self.model.backward(value)
        return value.detach()

    def step(self, check: Callable[[float], None]) -> float:
        self.model.step()  # and none if the norm is not finite
        norm = float(self.model.get_global_grad_norm())
        check(norm)
        return norm

    def states(self) -> dict[str, dict[str, Any]]:
        from deepspeed.utils import safe_get_full_optimizer_state

        steps = {id(p): state["step"] for parameters, state in self._groups() for p in parameters}
        return {
            name: {
                "step": steps[id(parameter)].cpu().clone(),  # one of its own: each is counted up alone
                **{key: safe_get_full_optimizer_state(parameter, key).cpu() for key in _MOMENTS},
            }
            for name, parameter in self.named
        }

    def set_states(self, states: States) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        require_known(states, [name for name, _ in self.named])
        names = {id(p): name for name, p in self.named}
        for parameters, state in self._groups():
            for parameter in parameters:
                held = states.get(names[id(parameter)])
                if held is None:  # it has had no gradient yet
                    continue
                state["step"].copy_(held["step"])  # the same for all
                for key in _MOMENTS:
                    safe_set_full_optimizer_state(parameter, held[key].to(parameter.device), key)

    def _groups(self) -> Iterator[tuple[Sequence[torch.nn.Parameter], dict[str, torch.Tensor]]]:
        """The parameters of each group, and the state of this process's share of them."""
        held = self.optimizer.optimizer.state
        shares = self.optimizer.single_partition_of_fp32_groups
        for parameters, share in zip(self.optimizer.bit16_groups, shares, strict=True):
            yield parameters, held[share]

    def _make_states(self) -> None:
        """Make AdamW's states before the first step.

        DeepSpeed 0.19 links states to their parameters once, after the first group's step: those of other
        groups would not be there yet.
        """
        for share in self.optimizer.single_partition_of_fp32_groups:
            moments = {key: torch.zeros_like(share, requires_grad=False) for key in _MOMENTS}
            step = torch.zeros((), dtype=torch.float32, device=share.device)
            self.optimizer.optimizer.state[share] = {"step": step, **moments}
        self.optimizer._lazy_init_hp_params_optimizer_state()


class ShardedProcesses(Processes):
    """Each process has a share of all parameters, their gradients and states (torch's fully_shard)."""

    shares_evaluation = False  # each forward gathers parameters from all

    def _plugins(self) -> dict[str, Any]:
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2, auto_wrap_policy="transformer_based_wrap", reshard_after_forward=True
        )
        return {"fsdp_plugin": plugin}

    def prepare(self, model: torch.nn.Module) -> None:
        from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy

        # What trains stays in fp32; products are in 16 bits by autocast, as without FSDP.
        self.accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy()
        self.accelerator.prepare_model(model, device_placement=False, evaluation_mode=True)
        super().prepare(model)
        # accelerate's note to itself, which the next stage would read too.
        os.environ.pop("ACCELERATE_USE_FSDP", None)
        if not isinstance(self.model, FSDPModule):
            raise TrainingError("fsdp: accelerate did not divide the model; leave it out, or report this")

    def backward(self, loss: Callable[[], torch.Tensor], *, last: bool) -> torch.Tensor:
        value = loss()
        self.accelerator.backward(value)  # exchanged at each micro batch: whole gradients are not kept
        return value.detach()

    def weights(self) -> dict[str, torch.Tensor]:
        from torch.distributed.fsdp import FSDPModule

        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # what an evaluation left gathered
        return super().weights()


def join(recipe: Recipe) -> Processes:
    """This process among those that were launched with it, as the recipe divides their work."""
    name = "fsdp" if recipe.fsdp else "deepspeed" if recipe.deepspeed is not None else None
    if name is not None and launched() == 1:
        tell(f"{name}: one process has nothing to divide; it trains as without")
        name = None
    return {None: Processes, "deepspeed": ZeroProcesses, "fsdp": ShardedProcesses}[name](recipe)


def require_known(states: States, names: Any) -> None:
    """Raise `TrainingError` if there are states of parameters that do not train."""
    if states.keys() - set(names):
        raise TrainingError("the optimiser's state is of other parameters than the recipe trains")


@contextmanager
def naming_lost_processes() -> Iterator[None]:
    """Turn the error of an exchange with a process that is no longer there into one line.

    Raises:
        TrainingError: another process was killed, or failed.
    """
    try:
        yield
    except RuntimeError as error:
        if launched() == 1 or not (isinstance(error, _DISTRIBUTED) or "gloo" in str(error).lower()):
            raise
        raise TrainingError(
            "another process of this run has ended: it was killed, or says itself why; this one ends too "
            f"({first_line(error)}). The same command goes on from the last checkpoint"
        ) from error


def _whole(value: Any) -> Any:
    """A tensor that is divided among processes, put together."""
    return value.full_tensor().cpu() if hasattr(value, "full_tensor") else value


def _divided_as(value: Any, parameter: torch.Tensor) -> Any:
    """A whole tensor, divided as a parameter of its shape is, if that one is."""
    if not hasattr(parameter, "full_tensor") or getattr(value, "shape", None) != parameter.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(
        value.to(parameter.device),
        parameter.device_mesh,
        parameter.placements,
    )


def _page_again(optimizer: Any) -> None:
    """Let a paged optimiser page its moments again: bitsandbytes (0.50) loads them as a GPU's own tensors."""
    inner = getattr(optimizer, "optimizer", optimizer)
    if not getattr(inner, "is_paged", False):
        return
    for parameter, held in inner.state.items():
        for key in held.keys() & {"state1", "state2"}:
            paged = inner.get_state_buffer(parameter, dtype=held[key].dtype)
            held[key] = paged.copy_(held[key])


def _load_deepspeed() -> Any:
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # its import sets another
    return deepspeed
